// Circular convolution of P x P windows by two-dimensional FFTs, for code that holds a whole row,
// column or window in registers: every index is a compile-time constant. V: see fft.h.
//
// A window of real values after the transforms along x is P rows of P packed values (see fft.h),
// which are P/2 complex columns; in the first, the two real spectra of frequencies 0 and P/2 are
// real and imaginary part of one. Transforming these columns along y like any other keeps
// everything complex; only the products of the first column must tell its two halves apart.
#pragma once

#include "moce/fft.h"

namespace moce {
inline namespace MOCE_ISA {

// Along y, one column in place.
template <int P, class V>
MOCE_INLINE void column_fft(Complex<V> (&z)[P]) {
  fft<P, V>([&](auto n) MOCE_INLINE_LAMBDA { return z[decltype(n)::value]; },
                [&](auto k, Complex<V> x) MOCE_INLINE_LAMBDA { z[decltype(k)::value] = x; });
}
template <int P, class V>
MOCE_INLINE void inverse_column_fft(Complex<V> (&z)[P]) {
  inverse_fft<P, V>(
      [&](auto n) MOCE_INLINE_LAMBDA { return z[decltype(n)::value]; },
      [&](auto k, Complex<V> x) MOCE_INLINE_LAMBDA { z[decltype(k)::value] = x; });
}

template <bool Conjugate, class V>
MOCE_INLINE Complex<V> product(Complex<V> a, Complex<V> b) {
  return a * (Conjugate ? conj(b) : b);
}

// The two real signals' spectra at frequency f, from the spectrum of one as real and the other as
// imaginary part: z at f, and the conjugate of z at -f.
template <class V>
MOCE_INLINE void split(Complex<V> z, Complex<V> conj_z, Complex<V>& real,
                       Complex<V>& imaginary) {
  const Complex<V> sum = z + conj_z, diff = z - conj_z;
  real = {0.5f * sum.re, 0.5f * sum.im};
  imaginary = {0.5f * diff.im, -0.5f * diff.re};
}

// z = a z, or a conj(z), for one transformed column; `first` if it is the first. a(Int<frequency>) gives
// the other factor, once each.
template <int P, bool Conjugate, class V, class A>
MOCE_INLINE void multiply_column(A&& a, Complex<V> (&z)[P], bool first) {
  if (!first) {
    unroll<P>([&](auto f) MOCE_INLINE_LAMBDA {
      constexpr int i = decltype(f)::value;
      z[i] = product<Conjugate>(a(f), z[i]);
    });
    return;
  }
  unroll<2>([&](auto i) MOCE_INLINE_LAMBDA {
    constexpr int f = decltype(i)::value * P / 2;
    const Complex<V> x = a(Int<f>{});
    z[f] = {x.re * z[f].re, x.im * z[f].im};
  });
  unroll<P / 2 - 1>([&](auto i) MOCE_INLINE_LAMBDA {
    constexpr int f = decltype(i)::value + 1, g = P - f;
    Complex<V> a0, a1, z0, z1;
    split(a(Int<f>{}), conj(a(Int<g>{})), a0, a1);
    split(z[f], conj(z[g]), z0, z1);
    const Complex<V> r0 = product<Conjugate>(a0, z0), r1 = product<Conjugate>(a1, z1);
    z[f] = {r0.re - r1.im, r0.im + r1.re};
    z[g] = {r0.re + r1.im, r1.re - r0.im};
  });
}

// A whole window in registers, x[row][column].

template <int P, int J, class V>
MOCE_INLINE void get_column(const V (&x)[P][P], Complex<V> (&z)[P]) {
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    z[decltype(i)::value] = {x[decltype(i)::value][2 * J], x[decltype(i)::value][2 * J + 1]};
  });
}
template <int P, int J, class V>
MOCE_INLINE void put_column(const Complex<V> (&z)[P], V (&x)[P][P]) {
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    x[decltype(i)::value][2 * J] = z[decltype(i)::value].re;
    x[decltype(i)::value][2 * J + 1] = z[decltype(i)::value].im;
  });
}

template <int P, class V>
MOCE_INLINE void window_fft(V (&x)[P][P]) {
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    auto& row = x[decltype(i)::value];
    real_fft<P, V>([&](auto n) MOCE_INLINE_LAMBDA { return row[decltype(n)::value]; },
                       [&](auto k, V v) MOCE_INLINE_LAMBDA { row[decltype(k)::value] = v; });
  });
  unroll<P / 2>([&](auto j) MOCE_INLINE_LAMBDA {
    Complex<V> z[P];
    get_column<P, decltype(j)::value>(x, z);
    column_fft<P>(z);
    put_column<P, decltype(j)::value>(z, x);
  });
}

// x = the window of the product of two spectra, a x or a conj(x), unnormalised; a(Int<row>,
// Int<column>) gives a's values.
template <int P, bool Conjugate, class V, class A>
MOCE_INLINE void inverse_window_fft(A&& a, V (&x)[P][P]) {
  unroll<P / 2>([&](auto j) MOCE_INLINE_LAMBDA {
    constexpr int J = decltype(j)::value;
    Complex<V> z[P];
    get_column<P, J>(x, z);
    multiply_column<P, Conjugate>(
        [&](auto i) MOCE_INLINE_LAMBDA {
          return Complex<V>{a(i, Int<2 * J>{}), a(i, Int<2 * J + 1>{})};
        },
        z, J == 0);
    inverse_column_fft<P>(z);
    put_column<P, J>(z, x);
  });
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    auto& row = x[decltype(i)::value];
    inverse_real_fft<P, V>(
        [&](auto k) MOCE_INLINE_LAMBDA { return row[decltype(k)::value]; },
        [&](auto n, V v) MOCE_INLINE_LAMBDA { row[decltype(n)::value] = v; });
  });
}

}  // namespace MOCE_ISA
}  // namespace moce
