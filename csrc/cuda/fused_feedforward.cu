// The operators moce_kernels::fused_feedforward, fused_projection and fused_attention_sums on GPUs: checks,
// outputs, launches. The arithmetic is in fused_feedforward_kernel.cu and fused_projection_kernel.cu.

#include "fused_feedforward_kernel.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "device.h"

namespace moce {

static const float* optional_vector(const std::optional<Tensor>& t, int64_t n, const char* name) {
  return t ? float_vector(*t, n, name) : nullptr;
}

static FusedMatrix matrix(const Tensor& t, const Tensor& x, int64_t rows, int64_t columns,
                          const char* name) {
  const bool is_float = t.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == rows && t.size(1) == columns &&
                      (is_float || t.scalar_type() == x.scalar_type()),
                  name, " must be (", rows, ", ", columns, "), in float32 or x's dtype");
  return {t.data_ptr(), t.stride(0), t.stride(1), is_float};
}

// Whether 16 bytes of neighbouring channels of any pixel can be loaded at once.
static bool is_aligned(const Strided& s, int size) {
  return (s.b | s.h | s.w) * size % 16 == 0 && reinterpret_cast<uintptr_t>(s.data) % 16 == 0;
}

static int element_size(const Tensor& t) { return type_of(t) == Type::kFloat ? 4 : 2; }

static int height_of(const Tensor& x) { return tile_height(element_size(x), x.size(1)); }

// What all have in common: of x, and of the `hidden` channels that are convolved to give `N`, in tiles of
// `height`.
static FusedFeedforward describe(const Tensor& x, int64_t N, int64_t hidden,
                                 const Tensor& project_in, const std::optional<Tensor>& in_bias,
                                 const Tensor& depthwise,
                                 const std::optional<Tensor>& depthwise_bias, bool norm,
                                 double eps, int height) {
  check_like(x, x, "x");
  STD_TORCH_CHECK(x.stride(1) == 1, "x must be channels-last");
  FusedFeedforward f{};
  f.B = x.size(0);
  f.C = x.size(1);
  f.H = static_cast<int>(narrow(x.size(2)));
  f.W = static_cast<int>(narrow(x.size(3)));
  f.N = static_cast<int>(narrow(N));
  const bool of_16_bits = type_of(x) != Type::kFloat;
  STD_TORCH_CHECK((f.C % 16 == 0 && f.C >= 16 && f.C <= 64) ||
                      (of_16_bits && (f.C == 96 || f.C == 128)),
                  "x must have 16, 32, 48 or 64 channels, or in 16 bits 96 or 128, not ", f.C);
  f.x = x.data_ptr();
  f.image = x.stride(0);
  f.row = static_cast<int>(x.stride(2));
  f.column = static_cast<int>(x.stride(3));
  const int size = element_size(x);
  // Within a tile places are counted in 32 bits.
  const int64_t out_row = f.W * std::max(f.C, N);
  narrow(std::max(x.stride(2), out_row) * (height + 2) + x.stride(3) * (kTileWidth + 2));
  f.aligned = is_aligned(strided(x), size);
  f.norm = norm;
  f.eps = static_cast<float>(eps);
  f.project_in = matrix(project_in, x, hidden, f.C, "project_in");
  f.in_bias = optional_vector(in_bias, hidden, "in_bias");
  f.depthwise = float_vector(depthwise, hidden * 9, "depthwise");
  f.depthwise_bias = optional_vector(depthwise_bias, hidden, "depthwise_bias");
  f.chunks = narrow(tiles_of(hidden, 2 * chunk_channels(size)));
  f.across = narrow(tiles_of(f.W, kTileWidth));
  f.down = narrow(tiles_of(f.H, height));
  return f;
}

// Of the tables of kernels the one for x, and the channels of `out`.
static const FusedFeedforwardKernel& feedforward_kernel(const Tensor& x) {
  return for_type_of(x, fused_feedforward_float, fused_feedforward_bfloat16, fused_feedforward_half);
}
static const FusedProjectionKernel& projection_kernel(const Tensor& x) {
  return for_type_of(x, fused_projection_float, fused_projection_bfloat16, fused_projection_half);
}

// `out` (B, channels, H, W), after the parameters were packed.
static Tensor launched(FusedFeedforward& f, const Tensor& x, int64_t channels,
                       void (*run)(const FusedFeedforward&, cudaStream_t)) {
  const Device device(x);
  Tensor out = new_like(x, channels);
  if (out.numel() == 0) return out;
  f.out = out.mutable_data_ptr();
  const int words = chunk_words(element_size(x), static_cast<int>(f.C));
  Tensor packed = empty_floats({int64_t{f.chunks}, words}, x);
  f.packed = packed.mutable_data_ptr();
  feedforward_kernel(x).pack(f, device.stream());
  run(f, device.stream());
  return out;
}

static Tensor fused_feedforward(const Tensor& x, const Tensor& project_in,
                                std::optional<Tensor> in_bias, const Tensor& depthwise,
                                std::optional<Tensor> depthwise_bias, const Tensor& project_out,
                                std::optional<Tensor> out_bias, bool norm, double eps, bool tf32) {
  STD_TORCH_CHECK(project_out.dim() == 2, "project_out must be (C, N)");
  const int64_t N = project_out.size(1);
  FusedFeedforward f = describe(x, N, 2 * N, project_in, in_bias, depthwise, depthwise_bias, norm,
                                eps, height_of(x));
  f.tf32 = tf32;
  f.project_out = matrix(project_out, x, f.C, N, "project_out");
  f.out_bias = optional_vector(out_bias, f.C, "out_bias");
  return launched(f, x, f.C, feedforward_kernel(x).run);
}

static Tensor fused_projection(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                               const Tensor& depthwise, std::optional<Tensor> depthwise_bias,
                               bool norm, double eps, bool tf32) {
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) % 2 == 0,
                  "weight must be (N, C), N an even number");
  const int64_t N = weight.size(0);
  FusedFeedforward f =
      describe(x, N, N, weight, bias, depthwise, depthwise_bias, norm, eps, height_of(x));
  f.tf32 = tf32;
  return launched(f, x, N, projection_kernel(x).run);
}

static std::tuple<Tensor, Tensor> fused_attention_sums(
    const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, const Tensor& depthwise,
    std::optional<Tensor> depthwise_bias, int64_t heads, int64_t parts, bool norm, double eps) {
  STD_TORCH_CHECK(type_of(x) != Type::kFloat, "x must have 16 bits");
  STD_TORCH_CHECK(x.dim() == 4, "x must be (B, C, H, W)");
  STD_TORCH_CHECK(x.numel() > 0, "x must have pixels");
  const int64_t C = x.size(1), N = 3 * C;
  STD_TORCH_CHECK(heads >= 1 && C % (16 * heads) == 0,
                  "a head must have a multiple of 16 channels, not ", C, " / ", heads);
  STD_TORCH_CHECK(C < 128 || type_of(x) == Type::kBFloat16, "128 channels must be bfloat16");
  STD_TORCH_CHECK(C <= 64 || C / heads <= 48, "a head must have at most 48 of ", C, " channels");
  STD_TORCH_CHECK(parts >= 1, "there must be a part");
  FusedFeedforward f =
      describe(x, N, N, weight, bias, depthwise, depthwise_bias, norm, eps, attention_height(C));
  f.split = static_cast<int>(2 * C);
  f.head = static_cast<int>(C / heads);
  f.parts = narrow(parts);
  const int chunk = 2 * chunk_channels(element_size(x));
  f.chunks = narrow(tiles_of(2 * C, chunk) + tiles_of(C, chunk));
  Tensor sums = empty_floats({f.B, parts, C * (f.head + 2)}, x);
  f.sums = static_cast<float*>(sums.mutable_data_ptr());
  Tensor v = launched(f, x, C, projection_kernel(x).run_attention);
  return {v, sums};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, MOCE_DEVICE_KEY, m) {
  m.impl("fused_feedforward", TORCH_BOX(&fused_feedforward));
  m.impl("fused_projection", TORCH_BOX(&fused_projection));
  m.impl("fused_attention_sums", TORCH_BOX(&fused_attention_sums));
}

}  // namespace moce
