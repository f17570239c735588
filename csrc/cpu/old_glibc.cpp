// Where glibc is 2.32 or newer, libstdc++'s headers ask this variable of its whether there is only one
// thread. With a variable of our own, which says no, a wheel that is built there runs with older ones.
#if defined(__linux__)
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
#endif
