// The operators moce_kernels::grouped_experts and grouped_experts_backward on CPUs: checks, outputs,
// the walk over experts and images, threads. The arithmetic is in grouped_experts_kernel.cpp.

#include "grouped_experts_kernel.h"

#include <algorithm>
#include <iterator>
#include <tuple>
#include <vector>

#include "capability.h"
#include "tensor.h"

MOCE_DECLARE_KERNEL(GroupedExpertsKernel, grouped_experts)

namespace moce {

// What is known of a role of ExpertWeights, in the order in which the operator takes them.
struct Role {
  const char* name;
  int64_t (*floats)(int64_t r, int64_t C);  // that an expert of rank r on C channels has of it
  float* ExpertWeights::*of_expert;
};
constexpr Role kRoles[] = {
#define MOCE_EXPERT_ROLE(role, floats) \
  {#role, []([[maybe_unused]] int64_t r, [[maybe_unused]] int64_t C) -> int64_t { return floats; }, \
   &ExpertWeights::role},
    MOCE_EXPERT_ROLES(MOCE_EXPERT_ROLE)
#undef MOCE_EXPERT_ROLE
};

struct Layer {
  ExpertOnImage base{};
  int64_t B, top_k;
  std::vector<int64_t> ranks, windows;
  const int64_t *order, *offsets;
  const float* gates;
  std::vector<float*> weights;  // of all experts, role by role

  // Floats that the experts before expert i have of a role.
  int64_t floats_before(size_t i, const Role& role) const {
    int64_t sum = 0;
    for (size_t j = 0; j < i; j++) sum += role.floats(ranks[j], base.C);
    return sum;
  }
  // Those of expert i among tensors of all roles.
  ExpertWeights of_expert(size_t i, const std::vector<float*>& tensors) const {
    ExpertWeights own;
    for (size_t n = 0; n < std::size(kRoles); n++)
      own.*kRoles[n].of_expert = tensors[n] + floats_before(i, kRoles[n]);
    return own;
  }
};

static const int64_t* indices(const Tensor& t, int64_t n, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long && t.is_contiguous() && t.numel() == n, name,
                  " must be contiguous int64 with ", n, " elements");
  return static_cast<const int64_t*>(t.const_data_ptr());
}

static Layer describe(const Tensor& x, const Tensor& shared, const Tensor& index,
                      const Tensor& gate, const Tensor& order, const Tensor& offsets,
                      const std::vector<Tensor>& weights, std::vector<int64_t> ranks,
                      std::vector<int64_t> windows, double eps) {
  check_like(x, x, "x");
  check_like(shared, x, "shared");
  Layer layer;
  ExpertOnImage& e = layer.base;
  e.type = type_of(x);
  layer.B = x.size(0);
  e.C = x.size(1);
  e.H = x.size(2);
  e.W = x.size(3);
  e.eps = static_cast<float>(eps);
  STD_TORCH_CHECK(index.dim() == 2 && index.size(0) == layer.B, "index must be (B, k)");
  layer.top_k = index.size(1);
  const int64_t slots = layer.B * layer.top_k, experts = static_cast<int64_t>(ranks.size());
  const int64_t* chosen = indices(index, slots, "index");
  layer.order = indices(order, slots, "order");
  layer.offsets = indices(offsets, experts + 1, "offsets");
  layer.gates = float_vector(gate, slots, "gate");
  STD_TORCH_CHECK(weights.size() == std::size(kRoles) && windows.size() == ranks.size(),
                  "expected a tensor for each of the ", std::size(kRoles),
                  " roles of weights, and a rank and a window for each expert");
  std::vector<bool> seen(slots, false);
  for (int64_t i = 0; i < experts; i++) {
    const int64_t P = windows[i];
    STD_TORCH_CHECK(ranks[i] >= 1, "ranks must be at least 1");
    STD_TORCH_CHECK(P == 4 || P == 8 || P == 16 || P == 32, "windows must be 4, 8, 16 or 32");
    // The plan must be one: every slot once, under its expert.
    const int64_t begin = layer.offsets[i], end = layer.offsets[i + 1];
    STD_TORCH_CHECK(begin >= 0 && begin <= end && end <= slots, "offsets do not fit order");
    for (int64_t s = begin; s < end; s++) {
      const int64_t slot = layer.order[s];
      STD_TORCH_CHECK(slot >= 0 && slot < slots && chosen[slot] == i && !seen[slot],
                      "order and offsets do not fit index");
      seen[slot] = true;
    }
  }
  STD_TORCH_CHECK(layer.offsets[0] == 0 && layer.offsets[experts] == slots,
                  "offsets must begin with 0 and end with the number of slots");
  layer.ranks = std::move(ranks);
  layer.windows = std::move(windows);
  for (size_t n = 0; n < std::size(kRoles); n++) {
    const int64_t floats = layer.floats_before(experts, kRoles[n]);
    layer.weights.push_back(const_cast<float*>(float_vector(weights[n], floats, kRoles[n].name)));
  }
  return layer;
}

static Strided image(Strided s, int64_t b, Type type) {
  const int64_t size = type == Type::kFloat ? 4 : 2;
  s.data = static_cast<char*>(s.data) + b * s.b * size;
  return s;
}

// f(expert on image, slot) for every slot, expert by expert; begin(expert) and end(expert, number)
// around each expert that has some.
template <class Begin, class F, class End>
static void walk(const Layer& layer, const ExpertOnImage& tensors, Begin&& begin, F&& f, End&& end) {
  std::vector<bool> written(layer.B, false);
  for (size_t i = 0; i < layer.ranks.size(); i++) {
    if (layer.offsets[i] == layer.offsets[i + 1]) continue;
    ExpertOnImage e = tensors;
    e.rank = static_cast<int>(layer.ranks[i]);
    e.window = static_cast<int>(layer.windows[i]);
    e.weights = layer.of_expert(i, layer.weights);
    begin(e);
    for (int64_t s = layer.offsets[i]; s < layer.offsets[i + 1]; s++) {
      const int64_t slot = layer.order[s], b = slot / layer.top_k;
      ExpertOnImage one = e;
      one.gate = layer.gates[slot];
      one.accumulate = written[b];
      written[b] = true;
      for (Strided ExpertOnImage::*t : {&ExpertOnImage::x, &ExpertOnImage::shared,
                                        &ExpertOnImage::out, &ExpertOnImage::grad,
                                        &ExpertOnImage::dx, &ExpertOnImage::dshared})
        one.*t = image(one.*t, b, one.type);
      f(one, slot);
    }
    end(e, i);
  }
}

static Tensor grouped_experts(const Tensor& x, const Tensor& shared, const Tensor& index,
                              const Tensor& gate, const Tensor& order, const Tensor& offsets,
                              const std::vector<Tensor>& weights, std::vector<int64_t> ranks,
                              std::vector<int64_t> windows, double eps) {
  Layer layer = describe(x, shared, index, gate, order, offsets, weights, std::move(ranks),
                         std::move(windows), eps);
  Tensor out = new_output(x);
  if (out.numel() == 0) return out;
  layer.base.x = strided(x);
  layer.base.shared = strided(shared);
  layer.base.out = strided(out);
  const auto& kernel = grouped_experts_for_this_cpu();
  Scratch packed, planes;
  walk(
      layer, layer.base,
      [&](ExpertOnImage& e) {
        e.rows = kernel.band_rows(e);
        packed = allocate_scratch(kernel.packed_size(e));
        planes = allocate_scratch(kernel.planes_size(e));
        e.packed = packed.get();
        e.planes = planes.get();
        kernel.pack(e);
      },
      [&](ExpertOnImage e, int64_t) {
        const auto run = [&](auto stage, int64_t first, int64_t last, int64_t grain) {
          torch::stable::parallel_for(first, last, grain, [&](int64_t begin, int64_t end) {
            stage(e, begin, end, allocate_scratch(kernel.scratch_size(e, false)).get());
          });
        };
        for (int64_t made = 0;; made = kPlaneMargins, kernel.advance(e)) {
          run(kernel.project, made, std::min(e.rows, e.H - e.top) + kPlaneMargins, 2);
          run(kernel.forward, 0, kernel.strips(e), 1);
          if (e.top + e.rows >= e.H) break;
        }
      },
      [](const ExpertOnImage&, size_t) {});
  return out;
}

static std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> grouped_experts_backward(
    const Tensor& grad, const Tensor& x, const Tensor& shared, const Tensor& index,
    const Tensor& gate, const Tensor& order, const Tensor& offsets,
    const std::vector<Tensor>& weights, std::vector<int64_t> ranks, std::vector<int64_t> windows,
    double eps) {
  Layer layer = describe(x, shared, index, gate, order, offsets, weights, std::move(ranks),
                         std::move(windows), eps);
  check_like(grad, x, "grad");
  Tensor dx = new_output(x), dshared = new_output(shared);
  Tensor dgate = empty_floats({layer.B, layer.top_k}, x);
  std::vector<Tensor> dweights;
  std::vector<float*> gradients;
  for (const Tensor& w : weights) {
    Tensor d = torch::stable::empty(w.sizes(), ScalarType::Float, std::nullopt, w.device());
    gradients.push_back(static_cast<float*>(d.mutable_data_ptr()));
    std::fill_n(gradients.back(), d.numel(), 0.f);
    dweights.push_back(d);
  }
  auto* gates = static_cast<float*>(dgate.mutable_data_ptr());
  if (x.numel() == 0) {
    std::fill_n(gates, dgate.numel(), 0.f);
    return {dx, dshared, dgate, dweights};
  }
  layer.base.x = strided(x);
  layer.base.shared = strided(shared);
  layer.base.grad = strided(grad);
  layer.base.dx = strided(dx);
  layer.base.dshared = strided(dshared);
  const auto& kernel = grouped_experts_for_this_cpu();
  Scratch packed, planes, grad_planes, parts;
  walk(
      layer, layer.base,
      [&](ExpertOnImage& e) {
        e.rows = e.H;
        packed = allocate_scratch(kernel.packed_size(e));
        planes = allocate_scratch(kernel.planes_size(e));
        grad_planes = allocate_scratch(kernel.planes_size(e));
        parts = allocate_scratch(kParts * kernel.part_size(e));
        e.packed = packed.get();
        e.planes = planes.get();
        e.grad_planes = grad_planes.get();
        e.parts = parts.get();
        kernel.pack(e);
        std::fill_n(e.parts, kParts * kernel.part_size(e), 0.f);
      },
      [&](const ExpertOnImage& e, int64_t slot) {
        const auto run = [&](auto stage, int64_t n, int64_t grain) {
          torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
            stage(e, begin, end, allocate_scratch(kernel.scratch_size(e, true)).get());
          });
        };
        run(kernel.project, e.rows + kPlaneMargins, 8);
        run(kernel.backward_strips, kParts, 1);
        run(kernel.backward_rows, kParts, 1);
        gates[slot] = static_cast<float>(kernel.gate_gradient(e));
      },
      [&](const ExpertOnImage& e, size_t i) {
        kernel.add_parts(e, layer.of_expert(i, gradients));
      });
  return {dx, dshared, dgate, dweights};
}

STABLE_TORCH_LIBRARY_IMPL(moce_kernels, CPU, m) {
  m.impl("grouped_experts", TORCH_BOX(&grouped_experts));
  m.impl("grouped_experts_backward", TORCH_BOX(&grouped_experts_backward));
}

}  // namespace moce
