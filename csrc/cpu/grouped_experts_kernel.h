// One expert on one image, on plain memory: what grouped_experts_kernel.cpp, compiled once for each
// instruction set, offers to grouped_experts.cpp.
#pragma once

#include "expert_weights.h"
#include "moce/types.h"

namespace moce {

// The gradients of weights are summed in this many parts, whatever the number of threads, so that
// the order of the sums does not depend on it.
constexpr int kParts = 8;
// Rows above and below a band of the planes: those of a 7 x 7 neighbourhood.
constexpr int kPlaneMargins = 6;

struct ExpertOnImage {
  Type type;  // of the activations
  int64_t C, H, W;
  int rank, window;
  float eps;
  ExpertWeights weights;
  float* packed;  // the weights as the kernels read them, made by `pack`
  float gate;
  // Activations of this image (their batch stride is not used).
  Strided x, shared, out, grad, dx, dshared;
  bool accumulate;  // whether an expert has written to out, dx and dshared before
  int64_t top, rows;   // the band of the image in the planes, beside margins: the last is cut off
  float* planes;       // q, k, v before their depthwise convolutions
  float* grad_planes;  // gradients after them
  float* parts;        // kParts sums of gradients
};

struct GroupedExpertsKernel {
  // Rows of the bands that forward takes one after the other: whole windows, or the image's.
  int64_t (*band_rows)(const ExpertOnImage&);
  // Floats of `packed`, of `planes` and `grad_planes` each, of one part, and of a thread's scratch.
  int64_t (*packed_size)(const ExpertOnImage&);
  int64_t (*planes_size)(const ExpertOnImage&);
  int64_t (*part_size)(const ExpertOnImage&);
  int64_t (*scratch_size)(const ExpertOnImage&, bool backward);

  void (*pack)(const ExpertOnImage&);
  // Rows begin <= y < end of the planes, of kPlaneMargins more than the band.
  void (*project)(const ExpertOnImage&, int64_t begin, int64_t end, float* scratch);
  // Goes to the next band, whose first kPlaneMargins rows are there then.
  void (*advance)(ExpertOnImage&);
  // Strips of `window` rows and 32 columns of the band -> out.
  int64_t (*strips)(const ExpertOnImage&);
  void (*forward)(const ExpertOnImage&, int64_t begin, int64_t end, float* scratch);
  // Parts begin <= i < end: their strips -> dshared and grad_planes, then their rows -> dx.
  void (*backward_strips)(const ExpertOnImage&, int64_t begin, int64_t end, float* scratch);
  void (*backward_rows)(const ExpertOnImage&, int64_t begin, int64_t end, float* scratch);
  // Adds the sum of the parts to the gradients of the weights; returns the gate's.
  double (*gate_gradient)(const ExpertOnImage&);
  void (*add_parts)(const ExpertOnImage&, const ExpertWeights& gradients);
};

}  // namespace moce
