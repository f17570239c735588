// Circular convolution of P x P windows, W channels at a time, by real two-dimensional FFTs.
//
// "Rows" hold a window after the transforms along x: P rows of P vectors, each row a packed
// spectrum. A "spectrum" holds it after the transforms along y too, column after column: the two
// real columns (frequencies 0 and P/2 along x; packed, P vectors each), then P/2 - 1 complex
// columns (P pairs of vectors). Both take P*P*W floats, rows a little more.
#pragma once

#include "moce/fft.h"
#include "simd.h"

namespace moce {
inline namespace MOCE_ISA {

template <int P, int W>
struct WindowFft {
  using V = Vec<W>;
  static constexpr int kArea = P * P * W;
  // One vector more in a row keeps the rows of one column out of the same few cache sets.
  static constexpr int kRow = P * W + (P >= 16 ? W : 0);
  static constexpr int kRows = P * kRow;
  static constexpr int kColumn = 2 * P * W;  // floats of a complex column, and of both real ones

  // Along x. `x` is dense or strided: element (r, c) is a vector at x + r * row + c * column. Of long
  // transforms there is one for adjacent vectors beside, whose offsets are constants.
  static void forward_rows(const float* x, int64_t row, int64_t column, float* rows) {
    if (P >= 16 && column == W) forward_rows_at(x, row, W, rows);
    else forward_rows_at(x, row, column, rows);
  }
  static MOCE_INLINE void forward_rows_at(const float* x, int64_t row, int64_t column,
                                          float* rows) {
    for (int r = 0; r < P; r++, x += row, rows += kRow)
      real_fft<P, V>(
          [&](auto n) MOCE_INLINE_LAMBDA {
            const float* p = x + decltype(n)::value * column;
            __builtin_prefetch(p + 32 * column);
            return load<W>(p);
          },
          [&](auto k, V v) MOCE_INLINE_LAMBDA { store<W>(rows + decltype(k)::value * W, v); });
  }

  static void inverse_rows(const float* rows, float scale, float* x, int64_t row,
                           int64_t column) {
    if (P >= 16 && column == W) inverse_rows_at(rows, scale, x, row, W);
    else inverse_rows_at(rows, scale, x, row, column);
  }
  static MOCE_INLINE void inverse_rows_at(const float* rows, float scale, float* x, int64_t row,
                                          int64_t column) {
    for (int r = 0; r < P; r++, x += row, rows += kRow)
      inverse_real_fft<P, V>(
          [&](auto k) MOCE_INLINE_LAMBDA { return load<W>(rows + decltype(k)::value * W); },
          [&](auto n, V v) MOCE_INLINE_LAMBDA {
            store<W>(x + decltype(n)::value * column, v * scale);
          });
  }

  // Along y, one column between rows and a spectrum.
  static void forward_real_columns(const float* rows, float* spectrum) {
    for (int c = 0; c < 2; c++, rows += W, spectrum += P * W)
      real_fft<P, V>(
          [&](auto n) MOCE_INLINE_LAMBDA { return load<W>(rows + decltype(n)::value * kRow); },
          [&](auto k, V v) MOCE_INLINE_LAMBDA { store<W>(spectrum + decltype(k)::value * W, v); });
  }
  static void inverse_real_columns(const float* spectrum, float* rows) {
    for (int c = 0; c < 2; c++, rows += W, spectrum += P * W)
      inverse_real_fft<P, V>(
          [&](auto k) MOCE_INLINE_LAMBDA { return load<W>(spectrum + decltype(k)::value * W); },
          [&](auto n, V v) MOCE_INLINE_LAMBDA { store<W>(rows + decltype(n)::value * kRow, v); });
  }
  static void forward_complex_column(const float* rows, float* spectrum) {
    fft<P, V>(
        [&](auto n) MOCE_INLINE_LAMBDA {
          const float* p = rows + decltype(n)::value * kRow;
          return Complex<V>{load<W>(p), load<W>(p + W)};
        },
        [&](auto k, Complex<V> v) MOCE_INLINE_LAMBDA {
          float* p = spectrum + decltype(k)::value * 2 * W;
          store<W>(p, v.re);
          store<W>(p + W, v.im);
        });
  }
  static void inverse_complex_column(const float* spectrum, float* rows) {
    inverse_fft<P, V>(
        [&](auto k) MOCE_INLINE_LAMBDA {
          const float* p = spectrum + decltype(k)::value * 2 * W;
          return Complex<V>{load<W>(p), load<W>(p + W)};
        },
        [&](auto n, Complex<V> v) MOCE_INLINE_LAMBDA {
          float* p = rows + decltype(n)::value * kRow;
          store<W>(p, v.re);
          store<W>(p + W, v.im);
        });
  }

  // Column group c: 0 for the two real columns, else the complex column of frequency c.
  static MOCE_INLINE void forward_columns(const float* rows, int c, float* spectrum) {
    c ? forward_complex_column(rows + 2 * c * W, spectrum) : forward_real_columns(rows, spectrum);
  }
  static MOCE_INLINE void inverse_columns(const float* spectrum, int c, float* rows) {
    c ? inverse_complex_column(spectrum, rows + 2 * c * W) : inverse_real_columns(spectrum, rows);
  }

  // out = a * b, or a * conj(b), for one column group.
  template <bool Conjugate>
  static MOCE_INLINE void multiply(const float* a, const float* b, int c, float* out) {
    for (int i = 0; i < P; i++) {
      const float *p = a + 2 * i * W, *q = b + 2 * i * W;
      const V ar = load<W>(p), ai = load<W>(p + W), br = load<W>(q), bi = load<W>(q + W);
      V re, im;
      if (c == 0 && i % (P / 2) == 0) {  // the two real values of a packed column
        re = ar * br;
        im = ai * bi;
      } else if constexpr (Conjugate) {
        re = ar * br + ai * bi;
        im = ai * br - ar * bi;
      } else {
        re = ar * br - ai * bi;
        im = ar * bi + ai * br;
      }
      store<W>(out + 2 * i * W, re);
      store<W>(out + (2 * i + 1) * W, im);
    }
  }

  // Rows of q and k -> rows of their convolution, in q's place. With `Keep`, the spectra are left
  // in q_spectrum and k_spectrum (kArea floats each).
  template <bool Keep>
  static void convolve(float* q, const float* k, float* q_spectrum, float* k_spectrum) {
    alignas(64) float a[kColumn], b[kColumn], product[kColumn];
    for (int c = 0; c < P / 2; c++) {
      float* qs = Keep ? q_spectrum + c * kColumn : a;
      float* ks = Keep ? k_spectrum + c * kColumn : b;
      forward_columns(q, c, qs);
      forward_columns(k, c, ks);
      multiply<false>(qs, ks, c, product);
      inverse_columns(product, c, q);
    }
  }

  // Rows of the gradient d of a convolution of q and k -> rows of the gradients of q (in d's place)
  // and of k: circular correlations of d with k and with q. q(c) and k(c) give the column groups of
  // their spectra, which are read before those of dk are written.
  template <class Q, class K>
  static MOCE_INLINE void correlate(float* d, float* dk, Q&& q, K&& k) {
    alignas(64) float a[kColumn], product[kColumn];
    for (int c = 0; c < P / 2; c++) {
      forward_columns(d, c, a);
      multiply<true>(a, k(c), c, product);
      inverse_columns(product, c, d);
      multiply<true>(a, q(c), c, product);
      inverse_columns(product, c, dk);
    }
  }
  // With the spectra that `convolve` has kept.
  static void correlate_spectra(float* d, float* dk, const float* q, const float* k) {
    correlate(d, dk, [&](int c) { return q + c * kColumn; }, [&](int c) { return k + c * kColumn; });
  }
  // With the rows of q and k, in q's place.
  static void correlate_rows(float* d, float* q, const float* k) {
    alignas(64) float spectrum[kColumn];
    const auto of = [&](const float* rows) {
      return [&spectrum, rows](int c) {
        forward_columns(rows, c, spectrum);
        return spectrum;
      };
    };
    correlate(d, q, of(q), of(k));
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
