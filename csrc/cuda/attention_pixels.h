// What fft_attention does pixel by pixel after the convolution: the normalisation over channels and
// its gradients, channel by channel. Part of fft_attention_kernel.cu.
#pragma once

#include "attention_tiling.h"
#include "window_fft_device.h"

namespace moce {
namespace {

// Two neighbouring pixels of a row, and their convolution.
struct Pixels {
  int row, column;  // from the first pixel of the tile
  int present;      // of the two; if none, row and column are those of one that there is
  unsigned m;       // where the convolution of the first is
};

// A tensor from the first pixel of a tile on. In bytes and opaque: the compiler would compute addresses
// anew from the tensor's start for each access.
struct Plane {
  char* data;
  int h, w;   // bytes from row to row and column to column
  int64_t c;  // elements from channel to channel

  __device__ Plane(const Windows& s, int b, int y, int x)
      : data(reinterpret_cast<char*>(opaque(pixel_of<T>(s, b, y, x)))),
        h(s.h * int{sizeof(T)}),
        w(s.w * int{sizeof(T)}),
        c(s.c) {}
  __device__ char* at(const Pixels& p) const {
    return data + int64_t{p.row} * h + int64_t{p.column} * w;
  }
};

// The pairs of pixels of windows side by side: how many rows and columns are within the image.
template <int P>
struct InWindows {
  int rows, columns;

  // All but where the convolution is.
  __device__ Pixels pixels(unsigned i) const {
    const int row = static_cast<int>(i / (P / 2) % P);
    const int column = static_cast<int>(i / (P * P / 2) * P + i % (P / 2) * 2);
    const int present = row < rows ? min(2, columns - column) : 0;
    return present > 0 ? Pixels{row, column, present, 0} : Pixels{0, 0, 0, 0};
  }
};
template <int P>
__device__ InWindows<P> in_windows(const FftAttention& a, const Tile& tile) {
  return {min(P, a.H - tile.y), min(tile.windows * P, a.W - tile.x)};
}

// The convolution of a tile, in shared memory: see Mixed. `scale` makes it what it should be.
template <int P>
struct OnChip : InWindows<P> {
  static constexpr bool kOnChip = true;
  static constexpr bool kAhead = P != 16 || sizeof(T) == 2;  // v is loaded: there are registers for it
  static constexpr float scale = 1.f / (P * P);
  Mixed mixed;

  __device__ OnChip(const InWindows<P>& windows, const Mixed& mixed)
      : InWindows<P>(windows), mixed(mixed) {}
  // Channel c of pixel i of the two.
  __device__ static float* at(const Pixels& p, unsigned c, unsigned i = 0) {
    constexpr unsigned G = channels_together(P), group = matrix_floats(P);
    return shared_memory() + (p.m + (P == 4 ? 2 * c : c / G * group + c % G * 2) + i);
  }
  // Channels c to c + 3 of both pixels.
  __device__ static void load(const Pixels& p, unsigned c, float (&m)[2][4]) {
    unroll<2>([&](auto i) {
      constexpr int k = decltype(i)::value * 2;
      const Floats<4> both = get_floats<4>(at(p, c) + 2 * k);
      m[0][k] = both.v[0];
      m[1][k] = both.v[1];
      m[0][k + 1] = both.v[2];
      m[1][k + 1] = both.v[3];
    });
  }
  __device__ static void store(const Pixels& p, unsigned c, const float (&m)[2][4]) {
    unroll<2>([&](auto i) {
      constexpr int k = decltype(i)::value * 2;
      const float both[4] = {m[0][k], m[1][k], m[0][k + 1], m[1][k + 1]};
      put_floats(at(p, c) + 2 * k, both);
    });
  }
  __device__ Pixels operator()(unsigned i) const {
    Pixels p = this->pixels(i);
    const unsigned row = i / (P / 2) % P, j = i % (P / 2);
    p.m = mixed.start + (P == 4 ? i * mixed.slot : row * row_floats(P) + j * slot_floats(P));
    return p;
  }
};

// The convolution in memory, from the first pixel of a tile on.
template <int P>
struct InMemory : InWindows<P> {
  static constexpr bool kOnChip = false, kAhead = true;
  static constexpr float scale = 1.f;
  float* mixed;
  int W, C;

  __device__ InMemory(const InWindows<P>& windows, const FftAttention& a, int b, int y, int x)
      : InWindows<P>(windows), mixed(pixel_of<float>(a.mixed, b, y, x)), W(a.W), C(a.C) {}
  __device__ float* at(const Pixels& p, unsigned c, unsigned i = 0) const {
    return mixed + (p.m + c + i * C);
  }
  __device__ void load(const Pixels& p, unsigned c, float (&m)[2][4]) const {
    unroll<2>([&](auto i) {  // or the same again
      const float* from = at(p, c, p.present > 1 ? decltype(i)::value : 0);
      unpack<float, 4>(get_packed<float, 4>(from), m[i.value]);
    });
  }
  __device__ void store(const Pixels& p, unsigned c, const float (&m)[2][4]) const {
    unroll<2>([&](auto i) {
      if (p.present > decltype(i)::value) store_packed<float, 4>(at(p, c, i.value), m[i.value]);
    });
  }
  __device__ Pixels operator()(unsigned i) const {
    Pixels p = this->pixels(i);
    p.m = (p.row * W + p.column) * C;
    return p;
  }
};

// Weight and bias in shared memory, four channels of one and the same of the other; zeros up to a
// multiple of 4 channels.
struct Affine {
  float* data;

  __device__ Affine(const FftAttention& a, float* shared) : data(shared) {
    for (int c = threadIdx.x; c < affine_floats(a.C) / 2; c += blockDim.x) {
      *weight(c) = c < a.C ? a.weight[c] : 0.f;
      *bias(c) = c < a.C ? a.bias[c] : 0.f;
    }
    __syncthreads();
  }
  __device__ float* weight(int c) const { return data + (c / 4 * 8 + c % 4); }
  __device__ float* bias(int c) const { return weight(c) + 4; }
};

// Calls f(i, lane) for i = 0, ... count - 1, as often in all threads of a warp, 2^bits lanes for each i;
// i = count where none is left.
template <class F>
__device__ void for_lanes(unsigned count, int bits, F&& f) {
  for (unsigned first = threadIdx.x / 32 * 32; first < count << bits; first += blockDim.x) {
    const unsigned i = first + threadIdx.x % 32;
    f(min(i >> bits, count), i & ((1u << bits) - 1));
  }
}

// The sum divided by C, rounded once: channels that are all the same have nothing left.
__device__ inline float mean_of(const FftAttention& a, float sum) {
  const float mean = sum * a.share;
  return fmaf(fmaf(-mean, a.channels, sum), a.share, mean);
}

// One pixel. Lanes that share it have every lanes-th channel each.
template <class L>
struct Pixel {
  Pixels pixels;
  const L& layout;
  bool i, present;  // the first or the second

  __device__ float& m(int64_t c) const {
    return *layout.at(pixels, static_cast<unsigned>(c), i);
  }
  __device__ T& in(const Plane& plane, int64_t c) const {
    return reinterpret_cast<T*>(plane.at(pixels) + i * plane.w)[c * plane.c];
  }
};

template <class L>
struct Norm {
  float mean, scale;
  __device__ Norm(const FftAttention& a, const Pixel<L>& p, int lane, int lanes) {
    float sum = 0, squares = 0;
    if (p.present)
      for (int64_t c = lane; c < a.C; c += lanes) sum += p.m(c);
    mean = mean_of(a, sum_lanes(sum, 1, lanes));
    if (p.present)
      for (int64_t c = lane; c < a.C; c += lanes) squares += (p.m(c) - mean) * (p.m(c) - mean);
    scale = rsqrtf(sum_lanes(squares, 1, lanes) / a.C * (L::scale * L::scale) + a.eps);
  }
  __device__ float operator()(float x) const { return (x - mean) * (scale * L::scale); }
};

// Calls f(pixel, there is one, lane) for each pixel, as often in all threads of a warp.
template <class L, class F>
__device__ void for_pixels(const L& pixels, unsigned count, int bits, F&& f) {
  for_lanes(2 * count, bits, [&](unsigned i, unsigned lane) {
    const unsigned pixel = min(i, 2 * count - 1);
    const Pixels p = pixels(pixel / 2);
    const bool exists = i < 2 * count, second = pixel % 2;
    f(Pixel<L>{p, pixels, second, exists && second < p.present}, exists, static_cast<int>(lane));
  });
}

template <class L>
__device__ void normalise_any(const FftAttention& a, const L& pixels, const Plane& v,
                              const Plane& out, const Affine& affine, unsigned count, int bits) {
  for_pixels(pixels, count, bits, [&](const Pixel<L>& p, bool, int lane) {
    const Norm<L> norm(a, p, lane, 1 << bits);
    if (!p.present) return;
    for (int c = lane; c < a.C; c += 1 << bits) {
      const float y = norm(p.m(c)) * *affine.weight(c) + *affine.bias(c);
      p.in(out, c) = static_cast<T>(y * static_cast<float>(p.in(v, c)));
    }
  });
}

// The sums for the gradients of weight and bias, in shared memory: (warps, 2, C).
struct Sums {
  float* data;
  int64_t C;
  int warps;
  __device__ Sums(const FftAttention& a, float* data)
      : data(data), C(a.C), warps(blockDim.x / 32) {}
  __device__ void clear() const {
    for (int64_t i = threadIdx.x; i < warps * 2 * C; i += blockDim.x) data[i] = 0;
    __syncthreads();
  }
  // Called by whole warps; one thread adds what the pixels of the warp give to a channel.
  __device__ void add(float weight, float bias, int64_t c, int lanes) const {
    weight = sum_lanes(weight, lanes, 32);
    bias = sum_lanes(bias, lanes, 32);
    if (threadIdx.x % 32 >= lanes || c >= C) return;
    float* sum = data + threadIdx.x / 32 * 2 * C;
    sum[c] += weight;
    sum[C + c] += bias;
  }
  __device__ void write(float* to) const {
    __syncthreads();
    for (int64_t i = threadIdx.x; i < 2 * C; i += blockDim.x) {
      float sum = 0;
      for (int w = 0; w < warps; w++) sum += data[w * 2 * C + i];
      to[blockIdx.x * 2 * C + i] = sum;
    }
  }
};

// dv, dm in the place of m, and what dweight and dbias are the sums of.
template <class L>
__device__ void differentiate_any(const FftAttention& a, const L& pixels, const Plane& v,
                                  const Plane& grad, const Plane& dv, const Sums& sums,
                                  unsigned count, int bits) {
  const int lanes = 1 << bits;
  for_pixels(pixels, count, bits, [&](const Pixel<L>& p, bool exists, int lane) {
    const Norm<L> norm(a, p, lane, lanes);
    const auto dy = [&](int64_t c) {
      return static_cast<float>(p.in(grad, c)) * static_cast<float>(p.in(v, c));
    };
    // Rounded where it is added up and where the mean is taken from it: fused with either, it would
    // leave something over one channel, where there is nothing.
    const auto dn = [&](int64_t c) { return __fmul_rn(dy(c), a.weight[c]); };
    float sum = 0, product = 0;
    if (p.present)
      for (int64_t c = lane; c < a.C; c += lanes) {
        const float d = dn(c);
        sum += d;
        product += d * norm(p.m(c));
      }
    sum = sum_lanes(sum, 1, lanes) / a.C;
    product = sum_lanes(product, 1, lanes) / a.C;
    for (int64_t first = 0; first < a.C; first += lanes) {
      const int64_t c = first + lane;
      float dweight = 0, dbias = 0;
      if (p.present && c < a.C) {
        const float n = norm(p.m(c));
        dbias = dy(c);
        dweight = dbias * n;
        const float y = n * a.weight[c] + a.bias[c];
        p.in(dv, c) = static_cast<T>(static_cast<float>(p.in(grad, c)) * y);
        p.m(c) = (dn(c) - sum - n * product) * norm.scale;
      } else if (L::kOnChip && exists && c < a.C) {
        p.m(c) = 0;  // beyond the image, where q and k are zero and their convolution is not
      }
      sums.add(dweight, dbias, c, lanes);
    }
  });
}

}  // namespace
}  // namespace moce
