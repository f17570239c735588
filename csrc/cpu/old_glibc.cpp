// libstdc++'s headers ask glibc 2.32 whether there is but one thread. Ours never say so: a wheel
// that is built on a newer system then runs with glibc 2.28 too.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
