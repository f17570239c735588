// What fft_attention does after the convolution, four channels of two pixels at a time where memory
// allows. Part of fft_attention_kernel.cu.
#pragma once

#include "attention_pixels.h"

namespace moce {
namespace {

// Sums over so many lanes, of two at once.
__device__ inline void sum_both(float (&x)[2], int lanes) {
#pragma unroll 1
  for (int bit = 1; bit < lanes; bit *= 2)
    unroll<2>([&](auto i) { x[i.value] += __shfl_xor_sync(0xffffffffu, x[i.value], bit); });
}

// Passes over pixels four channels at once: of two pixels, K fours for each of so many lanes.
template <int K, class L>
struct Fours {
  static constexpr int kBytes = 4 * int{sizeof(T)};
  using Elements = Packed<T, 4>[K][2];
  const L& pixels;
  const unsigned count;
  const int lanes, lane;
  Pixels p;
  bool exists;  // else there is no pixel left, and p is another

  __device__ Fours(const L& pixels, unsigned count, int bits)
      : pixels(pixels),
        count(count),
        lanes(1 << bits),
        lane(static_cast<int>(threadIdx.x) & (lanes - 1)) {}
  // Calls f() for all pixels in turn, as often in all threads of a warp.
  template <class F>
  __device__ void for_all(int bits, F&& f) {
    const unsigned own = threadIdx.x % 32 >> bits, together = blockDim.x >> bits;
    for (unsigned first = threadIdx.x / 32 * 32 >> bits; first < count; first += together) {
      p = pixels(min(first + own, count - 1));
      exists = first + own < count;
      if (!exists) p.present = 0;
      f();
    }
  }
  template <int k>
  __device__ int channel() const {
    return 4 * (lane + k * lanes);
  }
  // Where there is no pixel, another is read.
  __device__ void load(const Plane& plane, Elements& to) const {
    const char* at = plane.at(p) + kBytes * lane;
    const int next = p.present > 1 ? plane.w : 0;
    unroll<2 * K>([&](auto i) {
      constexpr int k = decltype(i)::value / 2, pixel = decltype(i)::value % 2;
      const char* from = at + (pixel * next + k * kBytes * lanes);
      to[k][pixel] = load_packed<T, 4>(reinterpret_cast<const T*>(from));
    });
  }
  template <int k, int pixel>
  __device__ void put(const Plane& plane, const float (&y)[4]) const {
    const Packed<T, 4> packed = pack<T, 4>(y);
    char* at = plane.at(p) + (kBytes * lane + pixel * plane.w + k * kBytes * lanes);
    if (p.present > pixel) put_packed<T, 4>(reinterpret_cast<T*>(at), packed);
  }
  // The convolution less its mean, and 1 / sqrt(variance + eps).
  __device__ void centre(const FftAttention& a, float (&m)[K][2][4], float (&scale)[2]) const {
    float mean[2] = {0, 0};
    scale[0] = scale[1] = 0;
    unroll<K>([&](auto k) {
      pixels.load(p, channel<decltype(k)::value>(), m[k.value]);
      unroll<2>([&](auto pixel) {
        const auto& x = m[k.value][pixel.value];
        mean[pixel.value] += (x[0] + x[1]) + (x[2] + x[3]);
      });
    });
    sum_both(mean, lanes);
    unroll<2>([&](auto pixel) { mean[pixel.value] = mean_of(a, mean[pixel.value]); });
    unroll<8 * K>([&](auto i) {
      constexpr int k = decltype(i)::value / 8, pixel = decltype(i)::value / 4 % 2;
      float& x = m[k][pixel][decltype(i)::value % 4];
      x -= mean[pixel];
      scale[pixel] += x * x;
    });
    sum_both(scale, lanes);
    unroll<2>([&](auto pixel) {
      const float variance = scale[pixel.value] * (a.share * (L::scale * L::scale));
      scale[pixel.value] = rsqrtf(variance + a.eps);
    });
  }
};

// out = (n weight + bias) v.
template <int K, class L>
__device__ void normalise_fours(const FftAttention& a, const L& pixels, const Plane& from,
                                const Plane& to, const Affine& affine, unsigned count, int bits) {
  Fours<K, L> fours(pixels, count, bits);
  fours.for_all(bits, [&] {
    typename Fours<K, L>::Elements v;
    float m[K][2][4], scale[2];
    if constexpr (L::kAhead) fours.load(from, v);
    fours.centre(a, m, scale);
    if constexpr (!L::kAhead) fours.load(from, v);
    unroll<2>([&](auto pixel) { scale[pixel.value] *= L::scale; });
    unroll<K>([&](auto k) {
      const int c = fours.template channel<decltype(k)::value>();
      const auto weight = get_floats<4>(affine.data + 2 * c);
      const auto bias = get_floats<4>(affine.data + 2 * c + 4);
      unroll<2>([&](auto pixel) {
        float y[4];
        unpack<T, 4>(v[k.value][pixel.value], y);
        unroll<4>([&](auto e) {
          const float n = m[k.value][pixel.value][e.value] * scale[pixel.value];
          y[e.value] *= n * weight.v[e.value] + bias.v[e.value];
        });
        fours.template put<decltype(k)::value, decltype(pixel)::value>(to, y);
      });
    });
  });
}

// dv, dm in the place of m, and what dweight and dbias are the sums of.
template <int K, class L>
__device__ void differentiate_fours(const FftAttention& a, const L& pixels, const Plane& v,
                                    const Plane& grad, const Plane& dv, const Affine& affine,
                                    const Sums& sums, unsigned count, int bits) {
  Fours<K, L> fours(pixels, count, bits);
  float dweight[K][4] = {}, dbias[K][4] = {};
  fours.for_all(bits, [&] {
    typename Fours<K, L>::Elements vs, grads;
    fours.load(v, vs);
    fours.load(grad, grads);
    unroll<2 * K>([&](auto i) {  // nothing comes from where there is no pixel
      constexpr int pixel = decltype(i)::value % 2;
      if (fours.p.present <= pixel) grads[decltype(i)::value / 2][pixel] = {};
    });
    float m[K][2][4], scale[2], sum[2] = {0, 0}, product[2] = {0, 0};
    fours.centre(a, m, scale);
    // Calls f(channel of the four, grad, dy).
    const auto each = [&](auto k, auto pixel, auto&& f) {
      float gs[4], factors[4];
      unpack<T, 4>(grads[k.value][pixel.value], gs);
      unpack<T, 4>(vs[k.value][pixel.value], factors);
      unroll<4>([&](auto e) { f(e, gs[e.value], gs[e.value] * factors[e.value]); });
    };
    unroll<K>([&](auto k) {
      const int c = fours.template channel<decltype(k)::value>();
      const auto weight = get_floats<4>(affine.data + 2 * c);
      unroll<2>([&](auto pixel) {
        each(k, pixel, [&](auto e, float, float dy) {
          float& n = m[k.value][pixel.value][e.value];
          n *= scale[pixel.value] * L::scale;
          const float dn = dy * weight.v[e.value];
          sum[pixel.value] += dn;
          product[pixel.value] += dn * n;
        });
      });
    });
    sum_both(sum, fours.lanes);
    sum_both(product, fours.lanes);
    unroll<2 * K>([&](auto i) {  // unpacked again: there are not registers for all that comes of them
      constexpr int k = decltype(i)::value / 2, pixel = decltype(i)::value % 2;
      vs[k][pixel].word = opaque(vs[k][pixel].word);
      grads[k][pixel].word = opaque(grads[k][pixel].word);
    });
    unroll<K>([&](auto k) {
      const int c = fours.template channel<decltype(k)::value>();
      const auto weight = get_floats<4>(affine.data + 2 * c);
      const auto bias = get_floats<4>(affine.data + 2 * c + 4);
      unroll<2>([&](auto pixel) {
        const float mean = sum[pixel.value] * a.share;
        const float mean_product = product[pixel.value] * a.share;
        float to_v[4];
        each(k, pixel, [&](auto e, float g, float dy) {
          float& n = m[k.value][pixel.value][e.value];
          dbias[k.value][e.value] += dy;
          dweight[k.value][e.value] += dy * n;
          to_v[e.value] = g * (n * weight.v[e.value] + bias.v[e.value]);
          n = (dy * weight.v[e.value] - mean - n * mean_product) * scale[pixel.value];
        });
        fours.template put<decltype(k)::value, decltype(pixel)::value>(dv, to_v);
      });
      if (fours.exists) pixels.store(fours.p, c, m[k.value]);
    });
  });
  unroll<4 * K>([&](auto i) {
    constexpr int k = decltype(i)::value / 4, e = decltype(i)::value % 4;
    sums.add(dweight[k][e], dbias[k][e], fours.template channel<k>() + e, fours.lanes);
  });
}

// `count` pairs of pixels of a tile whose first pixel is (b, y, x).
template <class L>
__device__ void normalise(const FftAttention& a, const AttentionTiling& t, const L& pixels,
                          const Affine& affine, unsigned count, int b, int y, int x) {
  const Plane v(a.v, b, y, x), out(a.out, b, y, x);
  switch (t.fours) {
    case 1: return normalise_fours<1>(a, pixels, v, out, affine, count, t.fours_bits);
    case 2: return normalise_fours<2>(a, pixels, v, out, affine, count, t.fours_bits);
    case 3: return normalise_fours<3>(a, pixels, v, out, affine, count, t.fours_bits);
    default: return normalise_any(a, pixels, v, out, affine, count, t.bits);
  }
}

// `count` pairs of pixels of a tile whose first pixel is (b, y, x).
template <class L>
__device__ void differentiate(const FftAttention& a, const AttentionTiling& t, const L& pixels,
                              const Affine& affine, const Sums& sums, unsigned count, int b, int y,
                              int x) {
  const Plane v(a.v, b, y, x), grad(a.grad, b, y, x), dv(a.dv, b, y, x);
  const int bits = t.fours_bits;
  switch (t.fours) {
    case 1: return differentiate_fours<1>(a, pixels, v, grad, dv, affine, sums, count, bits);
    case 2: return differentiate_fours<2>(a, pixels, v, grad, dv, affine, sums, count, bits);
    case 3: return differentiate_fours<3>(a, pixels, v, grad, dv, affine, sums, count, bits);
    default: return differentiate_any(a, pixels, v, grad, dv, sums, count, t.bits);
  }
}

}  // namespace
}  // namespace moce
