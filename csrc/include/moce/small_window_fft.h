// Circular convolution of P x P windows by two-dimensional FFTs of scalars, for code that holds a
// whole row, column or window in registers: every index is a compile-time constant.
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
template <int P>
MOCE_INLINE void column_fft(Complex<float> (&z)[P]) {
  fft<P, float>([&](auto n) MOCE_INLINE_LAMBDA { return z[decltype(n)::value]; },
                [&](auto k, Complex<float> v) MOCE_INLINE_LAMBDA { z[decltype(k)::value] = v; });
}
template <int P>
MOCE_INLINE void inverse_column_fft(Complex<float> (&z)[P]) {
  inverse_fft<P, float>(
      [&](auto n) MOCE_INLINE_LAMBDA { return z[decltype(n)::value]; },
      [&](auto k, Complex<float> v) MOCE_INLINE_LAMBDA { z[decltype(k)::value] = v; });
}

template <bool Conjugate>
MOCE_INLINE Complex<float> product(Complex<float> a, Complex<float> b) {
  return a * (Conjugate ? conj(b) : b);
}

// The two real signals' spectra at frequency f, from the spectrum of one as real and the other as
// imaginary part: z at f, and the conjugate of z at -f.
MOCE_INLINE void split(Complex<float> z, Complex<float> conj_z, Complex<float>& real,
                       Complex<float>& imaginary) {
  const Complex<float> sum = z + conj_z, diff = z - conj_z;
  real = {0.5f * sum.re, 0.5f * sum.im};
  imaginary = {0.5f * diff.im, -0.5f * diff.re};
}

// out = a * b, or a * conj(b), for one transformed column; `first` if it is the first. out may be a
// or b.
template <int P, bool Conjugate>
MOCE_INLINE void multiply_column(const Complex<float> (&a)[P], const Complex<float> (&b)[P],
                                 Complex<float> (&out)[P], bool first) {
  if (!first) {
    unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
      constexpr int f = decltype(i)::value;
      out[f] = product<Conjugate>(a[f], b[f]);
    });
    return;
  }
  out[0] = {a[0].re * b[0].re, a[0].im * b[0].im};
  out[P / 2] = {a[P / 2].re * b[P / 2].re, a[P / 2].im * b[P / 2].im};
  unroll<P / 2 - 1>([&](auto i) MOCE_INLINE_LAMBDA {
    constexpr int f = decltype(i)::value + 1, g = P - f;
    Complex<float> a0, a1, b0, b1;
    split(a[f], conj(a[g]), a0, a1);
    split(b[f], conj(b[g]), b0, b1);
    const Complex<float> r0 = product<Conjugate>(a0, b0), r1 = product<Conjugate>(a1, b1);
    out[f] = {r0.re - r1.im, r0.im + r1.re};
    out[g] = {r0.re + r1.im, r1.re - r0.im};
  });
}

// A whole window in registers, x[row][column].

template <int P, int J>
MOCE_INLINE void get_column(const float (&x)[P][P], Complex<float> (&z)[P]) {
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    z[decltype(i)::value] = {x[decltype(i)::value][2 * J], x[decltype(i)::value][2 * J + 1]};
  });
}
template <int P, int J>
MOCE_INLINE void put_column(const Complex<float> (&z)[P], float (&x)[P][P]) {
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    x[decltype(i)::value][2 * J] = z[decltype(i)::value].re;
    x[decltype(i)::value][2 * J + 1] = z[decltype(i)::value].im;
  });
}

template <int P>
MOCE_INLINE void window_fft(float (&x)[P][P]) {
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    auto& row = x[decltype(i)::value];
    real_fft<P, float>([&](auto n) MOCE_INLINE_LAMBDA { return row[decltype(n)::value]; },
                       [&](auto k, float v) MOCE_INLINE_LAMBDA { row[decltype(k)::value] = v; });
  });
  unroll<P / 2>([&](auto j) MOCE_INLINE_LAMBDA {
    Complex<float> z[P];
    get_column<P, decltype(j)::value>(x, z);
    column_fft<P>(z);
    put_column<P, decltype(j)::value>(z, x);
  });
}

// x = the window of the product of two spectra, a x or a conj(x), unnormalised; a(Int<row>,
// Int<column>) gives a's values.
template <int P, bool Conjugate, class A>
MOCE_INLINE void inverse_window_fft(A&& a, float (&x)[P][P]) {
  unroll<P / 2>([&](auto j) MOCE_INLINE_LAMBDA {
    constexpr int J = decltype(j)::value;
    Complex<float> y[P], z[P];
    unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
      y[decltype(i)::value] = {a(i, Int<2 * J>{}), a(i, Int<2 * J + 1>{})};
    });
    get_column<P, J>(x, z);
    multiply_column<P, Conjugate>(y, z, z, J == 0);
    inverse_column_fft<P>(z);
    put_column<P, J>(z, x);
  });
  unroll<P>([&](auto i) MOCE_INLINE_LAMBDA {
    auto& row = x[decltype(i)::value];
    inverse_real_fft<P, float>(
        [&](auto k) MOCE_INLINE_LAMBDA { return row[decltype(k)::value]; },
        [&](auto n, float v) MOCE_INLINE_LAMBDA { row[decltype(n)::value] = v; });
  });
}

}  // namespace MOCE_ISA
}  // namespace moce
