// FFTs of 4 to 32 points, unrolled. V is anything with float arithmetic: a vector holds one
// transform in each lane.
//
// A real spectrum X_0 .. X_{N/2} of N points is kept in N values, here called packed:
//   [X_0, X_{N/2}, Re X_1, Im X_1, Re X_2, Im X_2, ...]        (X_0 and X_{N/2} are real)
// All transforms are unnormalised: inverse(forward(x)) = N x.
#pragma once

#include "moce/unroll.h"

namespace moce {
inline namespace MOCE_ISA {

template <class V>
struct Complex {
  V re, im;
};

template <class V>
MOCE_INLINE Complex<V> operator+(Complex<V> a, Complex<V> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class V>
MOCE_INLINE Complex<V> operator-(Complex<V> a, Complex<V> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class V>
MOCE_INLINE Complex<V> operator*(Complex<V> a, Complex<V> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class V>
MOCE_INLINE Complex<V> conj(Complex<V> a) {
  return {a.re, -a.im};
}
template <class V>
MOCE_INLINE Complex<V> swapped(Complex<V> a) {
  return {a.im, a.re};
}

// cos and sin of k/32 of a turn.
constexpr float cos32(int k) {
  constexpr float quarter[9] = {1.f,
                                0.980785280403230449f,
                                0.923879532511286756f,
                                0.831469612302545237f,
                                0.707106781186547524f,
                                0.555570233019602225f,
                                0.382683432365089772f,
                                0.195090322016128268f,
                                0.f};
  k &= 31;
  if (k > 16) k = 32 - k;
  return k > 8 ? -quarter[16 - k] : quarter[k];
}
constexpr float sin32(int k) { return cos32(k - 8); }

// x turned back by K/32 of a turn: x exp(-2 pi i K / 32).
template <int K, class V>
MOCE_INLINE Complex<V> turn(Complex<V> x) {
  constexpr int k = K & 31;
  constexpr float half = cos32(4);
  if constexpr (k == 0) return x;
  else if constexpr (k == 4) return {(x.re + x.im) * half, (x.im - x.re) * half};
  else if constexpr (k == 8) return {x.im, -x.re};
  else if constexpr (k == 12) return {(x.im - x.re) * half, (x.re + x.im) * -half};
  else if constexpr (k == 16) return {-x.re, -x.im};
  else {
    constexpr float c = cos32(k), s = sin32(k);
    return {x.re * c + x.im * s, x.im * c - x.re * s};
  }
}

template <class V>
MOCE_INLINE void fft4(Complex<V>& a, Complex<V>& b, Complex<V>& c, Complex<V>& d) {
  const Complex<V> s0 = a + c, d0 = a - c, s1 = b + d, d1 = turn<8>(b - d);
  a = s0 + s1;
  b = d0 + d1;
  c = s0 - s1;
  d = d0 - d1;
}

// Forward FFT of N complex values: in(Int<n>) gives the n-th, out(Int<k>, value) takes the k-th.
template <int N, class V, class In, class Out>
MOCE_INLINE void fft(In&& in, Out&& out) {
  if constexpr (N == 2) {
    const Complex<V> a = in(Int<0>{}), b = in(Int<1>{});
    out(Int<0>{}, a + b);
    out(Int<1>{}, a - b);
  } else if constexpr (N == 4) {
    Complex<V> a = in(Int<0>{}), b = in(Int<1>{}), c = in(Int<2>{}), d = in(Int<3>{});
    fft4(a, b, c, d);
    out(Int<0>{}, a);
    out(Int<1>{}, b);
    out(Int<2>{}, c);
    out(Int<3>{}, d);
  } else if constexpr (N == 8) {
    Complex<V> e0 = in(Int<0>{}), e1 = in(Int<2>{}), e2 = in(Int<4>{}), e3 = in(Int<6>{});
    Complex<V> o0 = in(Int<1>{}), o1 = in(Int<3>{}), o2 = in(Int<5>{}), o3 = in(Int<7>{});
    fft4(e0, e1, e2, e3);
    fft4(o0, o1, o2, o3);
    o1 = turn<4>(o1);
    o2 = turn<8>(o2);
    o3 = turn<12>(o3);
    out(Int<0>{}, e0 + o0);
    out(Int<1>{}, e1 + o1);
    out(Int<2>{}, e2 + o2);
    out(Int<3>{}, e3 + o3);
    out(Int<4>{}, e0 - o0);
    out(Int<5>{}, e1 - o1);
    out(Int<6>{}, e2 - o2);
    out(Int<7>{}, e3 - o3);
  } else {
    // N = 4 M: M transforms of 4 points, twiddles, 4 transforms of M points. Only one small
    // transform is in registers at a time.
    constexpr int M = N / 4;
    Complex<V> middle[4][M];
    unroll<M>([&](auto n) MOCE_INLINE_LAMBDA {
      constexpr int j = decltype(n)::value;
      Complex<V> a = in(Int<j>{}), b = in(Int<j + M>{}), c = in(Int<j + 2 * M>{}),
                 d = in(Int<j + 3 * M>{});
      fft4(a, b, c, d);
      middle[0][j] = a;
      middle[1][j] = turn<j * 32 / N>(b);
      middle[2][j] = turn<2 * j * 32 / N>(c);
      middle[3][j] = turn<3 * j * 32 / N>(d);
    });
    unroll<4>([&](auto r) MOCE_INLINE_LAMBDA {
      constexpr int i = decltype(r)::value;
      fft<M, V>([&](auto n) MOCE_INLINE_LAMBDA { return middle[i][decltype(n)::value]; },
                [&](auto k, Complex<V> x) MOCE_INLINE_LAMBDA {
                  out(Int<i + 4 * decltype(k)::value>{}, x);
                });
    });
  }
}

// Inverse FFT, by swapping the parts on both sides.
template <int N, class V, class In, class Out>
MOCE_INLINE void inverse_fft(In&& in, Out&& out) {
  fft<N, V>([&](auto n) MOCE_INLINE_LAMBDA { return swapped(in(n)); },
            [&](auto k, Complex<V> x) MOCE_INLINE_LAMBDA { out(k, swapped(x)); });
}

// N real values -> packed spectrum, through a complex FFT of N/2 points.
template <int N, class V, class In, class Out>
MOCE_INLINE void real_fft(In&& in, Out&& out) {
  if constexpr (N == 4) {
    const V x0 = in(Int<0>{}), x1 = in(Int<1>{}), x2 = in(Int<2>{}), x3 = in(Int<3>{});
    const V even = x0 + x2, odd = x1 + x3;
    out(Int<0>{}, even + odd);
    out(Int<1>{}, even - odd);
    out(Int<2>{}, x0 - x2);
    out(Int<3>{}, x3 - x1);
  } else {
    constexpr int M = N / 2;
    Complex<V> z[M];
    fft<M, V>(
        [&](auto n) MOCE_INLINE_LAMBDA {
          constexpr int i = decltype(n)::value;
          return Complex<V>{in(Int<2 * i>{}), in(Int<2 * i + 1>{})};
        },
        [&](auto k, Complex<V> x) MOCE_INLINE_LAMBDA { z[decltype(k)::value] = x; });
    out(Int<0>{}, z[0].re + z[0].im);
    out(Int<1>{}, z[0].re - z[0].im);
    unroll<M / 2 - 1>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int k = decltype(i)::value + 1, j = M - k;
      constexpr float c = 0.5f * cos32(k * 32 / N), s = 0.5f * sin32(k * 32 / N);
      const Complex<V> sum = z[k] + conj(z[j]), diff = z[k] - conj(z[j]);
      const Complex<V> odd = {diff.im * c - diff.re * s, -(diff.re * c) - diff.im * s};
      out(Int<2 * k>{}, 0.5f * sum.re + odd.re);
      out(Int<2 * k + 1>{}, 0.5f * sum.im + odd.im);
      out(Int<2 * j>{}, 0.5f * sum.re - odd.re);
      out(Int<2 * j + 1>{}, odd.im - 0.5f * sum.im);
    });
    out(Int<M>{}, z[M / 2].re);
    out(Int<M + 1>{}, -z[M / 2].im);
  }
}

// Packed spectrum -> N real values.
template <int N, class V, class In, class Out>
MOCE_INLINE void inverse_real_fft(In&& in, Out&& out) {
  if constexpr (N == 4) {
    const V x0 = in(Int<0>{}), x2 = in(Int<1>{}), re = in(Int<2>{}), im = in(Int<3>{});
    const V even = x0 + x2, odd = x0 - x2, re2 = re + re, im2 = im + im;
    out(Int<0>{}, even + re2);
    out(Int<1>{}, odd - im2);
    out(Int<2>{}, even - re2);
    out(Int<3>{}, odd + im2);
  } else {
    constexpr int M = N / 2;
    Complex<V> z[M];
    const V x0 = in(Int<0>{}), xm = in(Int<1>{}), re = in(Int<M>{}), im = in(Int<M + 1>{});
    z[0] = {x0 + xm, x0 - xm};
    z[M / 2] = {re + re, -(im + im)};
    unroll<M / 2 - 1>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int k = decltype(i)::value + 1, j = M - k;
      constexpr float c = cos32(k * 32 / N), s = sin32(k * 32 / N);
      const Complex<V> a = {in(Int<2 * k>{}), in(Int<2 * k + 1>{})};
      const Complex<V> b = {in(Int<2 * j>{}), -in(Int<2 * j + 1>{})};
      const Complex<V> sum = a + b, diff = a - b;
      const Complex<V> odd = {-(diff.re * s) - diff.im * c, diff.re * c - diff.im * s};
      z[k] = sum + odd;
      z[j] = conj(sum - odd);
    });
    inverse_fft<M, V>(
        [&](auto n) MOCE_INLINE_LAMBDA { return z[decltype(n)::value]; },
        [&](auto k, Complex<V> x) MOCE_INLINE_LAMBDA {
          constexpr int i = decltype(k)::value;
          out(Int<2 * i>{}, x.re);
          out(Int<2 * i + 1>{}, x.im);
        });
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
