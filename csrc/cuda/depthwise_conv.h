// Depthwise convolution on GPUs, for operators that have one within.
#pragma once

#include <tuple>

#include "device.h"

namespace moce {

// x convolved with weight (C, 1, K, K) plus bias (C), or no bias; `flip`: with the taps reversed, as the
// gradient of x is a convolution of the output's.
Tensor depthwise_conv(const Tensor& x, const Tensor& weight, const Tensor* bias, bool flip);

// The gradients of weight and bias.
std::tuple<Tensor, Tensor> depthwise_conv_backward_weight(const Tensor& grad, const Tensor& x,
                                                          int64_t K);

}  // namespace moce
