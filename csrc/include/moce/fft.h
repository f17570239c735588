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

// N real values -> packed spectrum: those of the N/2 even and of the N/2 odd values, E and O, make
// X_k = E_k + w^k O_k and X_{N/2-k} = conj(E_k - w^k O_k), w = exp(-2 pi i / N).
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
    V e[M], o[M];
    real_fft<M, V>(
        [&](auto n) MOCE_INLINE_LAMBDA { return in(Int<2 * decltype(n)::value>{}); },
        [&](auto k, V x) MOCE_INLINE_LAMBDA { e[decltype(k)::value] = x; });
    real_fft<M, V>(
        [&](auto n) MOCE_INLINE_LAMBDA { return in(Int<2 * decltype(n)::value + 1>{}); },
        [&](auto k, V x) MOCE_INLINE_LAMBDA { o[decltype(k)::value] = x; });
    out(Int<0>{}, e[0] + o[0]);
    out(Int<1>{}, e[0] - o[0]);
    unroll<M / 2 - 1>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int k = decltype(i)::value + 1, j = M - k;
      const Complex<V> even = {e[2 * k], e[2 * k + 1]};
      const Complex<V> odd = turn<k * 32 / N>(Complex<V>{o[2 * k], o[2 * k + 1]});
      out(Int<2 * k>{}, even.re + odd.re);
      out(Int<2 * k + 1>{}, even.im + odd.im);
      out(Int<2 * j>{}, even.re - odd.re);
      out(Int<2 * j + 1>{}, odd.im - even.im);
    });
    out(Int<M>{}, e[1]);
    out(Int<M + 1>{}, -o[1]);
  }
}

// Packed spectrum -> N real values: the even and the odd ones have the packed spectra
// E_k = X_k + conj(X_{N/2-k}) and O_k = (X_k - conj(X_{N/2-k})) conj(w^k).
template <int N, class V, class In, class Out>
MOCE_INLINE void inverse_real_fft(In&& in, Out&& out) {
  if constexpr (N == 4) {
    const V x0 = in(Int<0>{}), x2 = in(Int<1>{}), re = in(Int<2>{}), im = in(Int<3>{});
    const V even = x0 + x2, odd = x0 - x2;
    out(Int<0>{}, even + re * 2.f);
    out(Int<1>{}, odd - im * 2.f);
    out(Int<2>{}, even - re * 2.f);
    out(Int<3>{}, odd + im * 2.f);
  } else {
    constexpr int M = N / 2;
    V e[M], o[M];
    const V x0 = in(Int<0>{}), xm = in(Int<1>{});
    e[0] = x0 + xm;
    o[0] = x0 - xm;
    e[1] = in(Int<M>{}) * 2.f;
    o[1] = in(Int<M + 1>{}) * -2.f;
    unroll<M / 2 - 1>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int k = decltype(i)::value + 1, j = M - k;
      const Complex<V> a = {in(Int<2 * k>{}), in(Int<2 * k + 1>{})};
      const Complex<V> b = {in(Int<2 * j>{}), -in(Int<2 * j + 1>{})};
      const Complex<V> odd = turn<-k * 32 / N>(a - b);
      e[2 * k] = a.re + b.re;
      e[2 * k + 1] = a.im + b.im;
      o[2 * k] = odd.re;
      o[2 * k + 1] = odd.im;
    });
    inverse_real_fft<M, V>(
        [&](auto k) MOCE_INLINE_LAMBDA { return e[decltype(k)::value]; },
        [&](auto n, V x) MOCE_INLINE_LAMBDA { out(Int<2 * decltype(n)::value>{}, x); });
    inverse_real_fft<M, V>(
        [&](auto k) MOCE_INLINE_LAMBDA { return o[decltype(k)::value]; },
        [&](auto n, V x) MOCE_INLINE_LAMBDA { out(Int<2 * decltype(n)::value + 1>{}, x); });
  }
}

}  // namespace MOCE_ISA
}  // namespace moce
