// One complexity expert on one image for CPUs:
//
//   h = P0 x;  q = dw3x3(Wq h);  k, v = dw7x7(Wkv h);  a = LayerNorm(q (*) k) v;
//   o = (Wo a + b) SiLU(P1 shared);  out (+)= gate (P2 o + x)
//
// in two passes over a band of rows. The first, row by row, leaves Wq h and Wkv h in planes with a
// margin of zeros (3 r floats for each pixel; a band of them stays in a cache). The second, strip by
// strip of windows, does all the rest. About 3 r C + 4 r^2 + 107 r multiply-adds for each pixel.
// Backward, the whole image in one band: the planes again; the strips with their gradients up to the
// depthwise convolutions; the rows from there to x.
//
// Compiled once for each instruction set; see simd.h for what that forbids.

#include "grouped_experts_kernel.h"

#include "expert_backward.h"

namespace moce {
inline namespace MOCE_ISA {

// The widest vectors whose lanes the rank fills well.
template <class F>
auto dispatch(const ExpertOnImage& e, F&& f) {
#if MOCE_LANES >= 16
  if (e.rank > 8) return f(ExpertBackward<16>(e));
#endif
#if MOCE_LANES >= 8
  if (e.rank > 4) return f(ExpertBackward<8>(e));
#endif
  return f(ExpertBackward<4>(e));
}

extern const GroupedExpertsKernel grouped_experts_kernel = {
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.band_rows(); }); },
    [](const ExpertOnImage& e) {
      return dispatch(e, [](auto x) { return x.packed(nullptr).size; });
    },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return 3 * x.plane; }); },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.part_size(); }); },
    [](const ExpertOnImage& e, bool backward) {
      return dispatch(e, [=](auto x) { return x.scratch_size(backward); });
    },
    [](const ExpertOnImage& e) { dispatch(e, [](auto x) { x.pack(); }); },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.project(begin, end, scratch); });
    },
    [](ExpertOnImage& e) {
      dispatch(e, [](auto x) { x.keep_margin(); });
      e.top += e.rows;
    },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.strips(); }); },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.forward(begin, end, scratch); });
    },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.backward_strips(begin, end, scratch); });
    },
    [](const ExpertOnImage& e, int64_t begin, int64_t end, float* scratch) {
      dispatch(e, [=](auto x) { x.backward_rows(begin, end, scratch); });
    },
    [](const ExpertOnImage& e) { return dispatch(e, [](auto x) { return x.gate_gradient(); }); },
    [](const ExpertOnImage& e, const ExpertWeights& gradients) {
      dispatch(e, [&](auto x) { x.add_parts(gradients); });
    },
};

}  // namespace MOCE_ISA
}  // namespace moce
