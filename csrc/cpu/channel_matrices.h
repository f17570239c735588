// Attention over channels between its passes over the pixels: what the sums q k^T and the squared
// lengths make of the heads' matrices, and the gradients of these. Small beside the passes, hence in
// float64.
#pragma once

#include "channel_attention_kernel.h"
#include "matmul.h"

#if defined(__x86_64__) && defined(__GLIBC__)
// Not that of glibc 2.29, which differs in how it sets errno: wheels are for glibc 2.28.
__asm__(".symver exp, exp@GLIBC_2.2.5");
#endif

namespace moce {
inline namespace MOCE_ISA {

constexpr float kSmallest = 1e-12f;  // length that a row is taken to have at least

// The matrices are packed for products of tensors of type T.
template <int W, class T>
struct ChannelMatrices {
  const ChannelAttention& a;
  const int64_t C, c, cp, hp;  // channels; of a head; up to whole vectors; of all heads so
  const int64_t Cp, Np;

  explicit ChannelMatrices(const ChannelAttention& a)
      : a(a),
        C(a.C),
        c(a.C / a.heads),
        cp(whole<W>(c)),
        hp(a.heads * cp),
        Cp(whole<W>(a.C)),
        Np(whole<W>(a.outer)) {}

  int64_t weight_size() const { return C * Np; }
  int64_t gram_size() const { return a.heads * c * cp; }
  int64_t part_size(bool backward) const {
    return backward ? C * Np + Np : gram_size() + 2 * hp;
  }
  int64_t matrices_size(bool backward) const {
    return backward ? a.outer * hp + 2 * gram_size() + 2 * hp : C * Np + Np;
  }

  void transpose_weight() const {
    for (int64_t n = 0; n < Np; n += W)
      transpose_rows<W>(a.weight + n * C, C, a.outer - n < W ? int(a.outer - n) : W, C,
                        a.weight_t + n, Np);
  }

  float* gram_of(int64_t b, int64_t h) const { return a.gram + (b * a.heads + h) * c * c; }
  double length(int64_t b, int which, int64_t channel) const {
    const double n = __builtin_sqrt(a.squares[(b * 2 + which) * C + channel]);
    return n > kSmallest ? n : kSmallest;
  }

  // Cosines of the angles between q's and k's channels of a head, and the softmax A of them: (c, c).
  // Leaves the lengths of k's channels in k_length (c).
  void attention(int64_t b, int64_t h, double* cosine, double* matrix, double* k_length) const {
    for (int64_t j = 0; j < c; j++) k_length[j] = length(b, 1, h * c + j);
    for (int64_t i = 0; i < c; i++, cosine += c, matrix += c) {
      const float* gram = gram_of(b, h) + i * c;
      const double q = length(b, 0, h * c + i);
      double highest = -__builtin_inf(), sum = 0;
      for (int64_t j = 0; j < c; j++) {
        cosine[j] = gram[j] / (q * k_length[j]);
        matrix[j] = cosine[j] * a.temperature[h];
        if (!(matrix[j] <= highest)) highest = matrix[j];
      }
      for (int64_t j = 0; j < c; j++) {
        matrix[j] = __builtin_exp(matrix[j] - highest);
        sum += matrix[j];
      }
      for (int64_t j = 0; j < c; j++) matrix[j] /= sum;
    }
  }

  // The head's rows (c, Np) of M^T: row j is the sum over i of A_ij Wo^T's row h c + i.
  void fold(int64_t h, const double* matrix, float* transposed, float* folded) const {
    for (int64_t i = 0; i < c; i++)
      for (int64_t j = 0; j < c; j++)
        transposed[j * c + i] = static_cast<float>(matrix[i * c + j]);
    multiply_pixels<W>(transposed, c, c, a.weight_t + h * c * Np, Np, nullptr, folded, Np, int(c));
  }

  // Heads begin <= i < end of all images: the sums of the parts, and M in panels.
  void mix(int64_t begin, int64_t end, float* scratch) const {
    const int64_t products = c * cp, squares = products + 2 * cp;
    double *total = reinterpret_cast<double*>(scratch), *cosine = total + squares;
    double *matrix = cosine + c * c, *k_length = matrix + c * c;
    float *folded = reinterpret_cast<float*>(k_length + c), *transposed = folded + c * Np;
    for (int64_t i = begin; i < end; i++) {
      const int64_t b = i / a.heads, h = i % a.heads;
      for (int64_t j = 0; j < squares; j++) total[j] = 0;
      const float* part = a.parts + b * a.num_parts * part_size(false);
      for (int64_t n = 0; n < a.num_parts; n++, part += part_size(false)) {
        for (int64_t j = 0; j < products; j++) total[j] += part[h * products + j];
        const float* of_head = part + gram_size() + h * cp;
        for (int64_t j = 0; j < cp; j++) total[products + j] += of_head[j];
        for (int64_t j = 0; j < cp; j++) total[products + cp + j] += of_head[hp + j];
      }
      float* gram = gram_of(b, h);
      for (int64_t j = 0; j < c; j++) {
        for (int64_t k = 0; k < c; k++)
          gram[j * c + k] = static_cast<float>(total[j * cp + k]);
        for (int which = 0; which < 2; which++)
          a.squares[(b * 2 + which) * C + h * c + j] =
              static_cast<float>(total[products + which * cp + j]);
      }
      attention(b, h, cosine, matrix, k_length);
      fold(h, matrix, transposed, folded);
      float* to = a.matrices + b * matrices_size(false);
      pack_rows<W, T>(folded, Np, h * c, c, C, Np, to);
      if (h > 0) continue;
      for (int64_t n = 0; n < Np; n++)
        to[C * Np + n] = a.bias && n < a.outer ? a.bias[n] : 0.f;
    }
  }

  struct GradientMatrices {
    float *by_grad, *by_k, *by_q, *q_factor, *k_factor;
  };
  GradientMatrices gradient_matrices(int64_t b) const {
    GradientMatrices m;
    m.by_grad = a.matrices + b * matrices_size(true);
    m.by_k = m.by_grad + a.outer * hp;
    m.by_q = m.by_k + gram_size();
    m.q_factor = m.by_q + gram_size();
    m.k_factor = m.q_factor + hp;
    return m;
  }

  // Of `matrices`, for each head in panels: M (outer, cp), dG^T and dG (c, cp); the factors of q and
  // of k (hp).
  void backward_mix(int64_t begin, int64_t end, float* scratch) const {
    const int64_t matrix_size = a.heads * c * c;
    double *cosine = reinterpret_cast<double*>(scratch), *matrix = cosine + matrix_size;
    double *dA = matrix + matrix_size, *k_lengths = dA + c;  // a row; (heads, c)
    float* folded = reinterpret_cast<float*>(k_lengths + C);
    float *d = folded + C * Np, *transposed = d + matrix_size, *A = transposed + matrix_size;
    for (int64_t b = begin; b < end; b++) {
      // dM^T: into the first part, in order.
      float* parts = a.parts + b * a.num_parts * part_size(true);
      for (int64_t i = 0; i < part_size(true); i++) {
        double total = parts[i];
        for (int64_t n = 1; n < a.num_parts; n++) total += parts[n * part_size(true) + i];
        parts[i] = static_cast<float>(total);
      }
      for (int64_t h = 0; h < a.heads; h++) {
        attention(b, h, cosine + h * c * c, matrix + h * c * c, k_lengths + h * c);
        fold(h, matrix + h * c * c, transposed, folded + h * c * Np);
      }
      const auto [by_grad, by_k, by_q, q_factor, k_factor] = gradient_matrices(b);
      for (int64_t i = 0; i < 2 * hp; i++) q_factor[i] = 0.f;
      for (int64_t h = 0; h < a.heads; h++) {
        pack_panels<W, T>(folded + h * c * Np, a.outer, c, 1, Np, by_grad + h * a.outer * cp);
        const double *of_head = matrix + h * c * c, *s = cosine + h * c * c;
        for (int64_t i = 0; i < c * c; i++) A[i] = static_cast<float>(of_head[i]);
        const float *w = a.weight_t + h * c * Np, *dm = parts + h * c * Np;
        float* dG = d + h * c * c;
        multiply_pixels<W>(A, c, c, dm, Np, nullptr, a.dweights + (b * C + h * c) * Np, Np,
                           int(c));
        double of_temperature = 0;
        for (int64_t i = 0; i < c; i++) {
          const double q = length(b, 0, h * c + i);
          double dot = 0, e = 0;
          inner_products(w + i * Np, dm, dA);
          for (int64_t j = 0; j < c; j++) dot += dA[j] * of_head[i * c + j];
          for (int64_t j = 0; j < c; j++) {
            const double k = k_lengths[h * c + j];
            const double dz = of_head[i * c + j] * (dA[j] - dot);
            const double ds = dz * a.temperature[h], slope = ds * s[i * c + j];
            of_temperature += dz * s[i * c + j];
            e -= slope / (q * q);
            if (k > kSmallest) k_factor[h * cp + j] -= static_cast<float>(slope / (k * k));
            dG[i * c + j] = static_cast<float>(ds / (q * k));
          }
          if (q > kSmallest) q_factor[h * cp + i] = static_cast<float>(e);
        }
        a.dtemperatures[b * a.heads + h] = static_cast<float>(of_temperature);
        pack_panels<W, T>(dG, c, c, 1, c, by_k + h * c * cp);
        pack_panels<W, T>(dG, c, c, c, 1, by_q + h * c * cp);
      }
    }
  }
  // Of x (Np) with each row of a head's y (c, Np).
  void inner_products(const float* x, const float* y, double* to) const {
    constexpr int kHalf = W > 4 ? W / 2 : 4;
    const auto widened = [](const float* p) MOCE_INLINE_LAMBDA {
      return __builtin_convertvector(load<kHalf>(p), VecF64<kHalf>);
    };
    for (int64_t j = 0; j < c; j += 4) {  // rows at once: their sums do not wait for each other
      const float* row[4];
      for (int i = 0; i < 4; i++) row[i] = y + (j + i < c ? j + i : c - 1) * Np;
      VecF64<kHalf> part[4] = {};
      for (int64_t n = 0; n < Np; n += kHalf) {
        const VecF64<kHalf> own = widened(x + n);
        for (int i = 0; i < 4; i++) part[i] += own * widened(row[i] + n);
      }
      for (int i = 0; i < 4 && j + i < c; i++) {
        double sum = 0;
        for (int lane = 0; lane < kHalf; lane++) sum += part[i][lane];
        to[j + i] = sum;
      }
    }
  }

  void reduce() const {
    for (int64_t n = 0; n < Np; n += W) {
      const int lanes = a.outer - n < W ? int(a.outer - n) : W;
      for (int64_t i = 0; i < C; i++) {
        Vec<W> sum{};
        for (int64_t b = 0; b < a.B; b++) sum += load<W>(a.dweights + (b * C + i) * Np + n);
        for (int lane = 0; lane < lanes; lane++) a.dweight[(n + lane) * C + i] = sum[lane];
      }
      Vec<W> sum{};
      for (int64_t b = 0; b < a.B; b++)
        sum += load<W>(a.parts + b * a.num_parts * part_size(true) + C * Np + n);
      for (int lane = 0; lane < lanes; lane++) a.dbias[n + lane] = sum[lane];
    }
    for (int64_t h = 0; h < a.heads; h++) {
      double sum = 0;
      for (int64_t b = 0; b < a.B; b++) sum += a.dtemperatures[b * a.heads + h];
      a.dtemperature[h] = static_cast<float>(sum);
    }
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
