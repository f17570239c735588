// How one expert sees one image: sizes, its planes, the strips of windows, and pixels of the tensors.
#pragma once

#include "depthwise_row.h"
#include "grouped_experts_kernel.h"
#include "pixels.h"
#include "window_fft_conv_kernel.h"

namespace moce {
inline namespace MOCE_ISA {

constexpr int kMargin = kPlaneMargins / 2;  // half of a 7 x 7 neighbourhood

// Hands out pieces of one allocation, each on a cache line.
struct Pieces {
  float* base;
  int64_t used = 0;
  float* take(int64_t n) {
    float* p = base + used;
    used += (n + 15) / 16 * 16;
    return p;
  }
};

// The vectors of C channels are as wide as there are, however small the rank.
constexpr int kWide = MOCE_LANES;

// Buffers hold channels padded to whole vectors: r to `rp` of W, C to `Cp` of kWide.
template <int W>
struct ExpertGeometry {
  using V = Vec<W>;
  const ExpertOnImage& e;
  const int64_t r, rp, Cp;
  // Pixels and floats of a plane's row; floats of a plane.
  const int64_t plane_width, plane_row, plane;

  explicit ExpertGeometry(const ExpertOnImage& e)
      : e(e),
        r(e.rank),
        rp(whole<W>(e.rank)),
        Cp(whole<kWide>(e.C)),
        // depthwise_row reads whole groups of pixels
        plane_width((e.W + kDepthwisePixels - 1) / kDepthwisePixels * kDepthwisePixels +
                    2 * kMargin),
        plane_row(plane_width * rp),
        plane((e.rows + 2 * kMargin) * plane_row) {}

  // C channels of `count` pixels of this image: the tensor's own memory where it serves, else a copy
  // in `buffer` (count, Cp).
  Pixels read(const Strided& s, int64_t y, int64_t x, int count, float* buffer) const {
    return with_type(e.type, [&](auto t) {
      return read_pixels<kWide, decltype(t)>(s, e.C, 0, y, x, count, buffer);
    });
  }
  // `from` (count, Cp) to a tensor, on top of what is there where e.accumulate says so.
  void write(float* from, const Strided& s, int64_t y, int64_t x, int count, float* buffer) const {
    if (e.accumulate) {
      const Pixels before = read(s, y, x, count, buffer);
      for (int p = 0; p < count; p++)
        for (int64_t c = 0; c < Cp; c += kWide)
          store<kWide>(from + p * Cp + c,
                   load<kWide>(from + p * Cp + c) + load<kWide>(before.data + p * before.pixel + c));
    }
    with_type(e.type, [&](auto t) {
      auto* to = pixel_at<decltype(t)>(s, 0, y, x);
      for (int64_t c = 0; c < e.C; c += kWide)
        scatter_pixels<kWide>(from + c, Cp, to + c * s.c, s, e.C - c < kWide ? int(e.C - c) : kWide, count);
    });
  }

  int64_t strip_columns() const { return (e.W + kColumns - 1) / kColumns; }
  int64_t strips() const {
    const int64_t rows = e.H - e.top < e.rows ? e.H - e.top : e.rows;
    return (rows + e.window - 1) / e.window * strip_columns();
  }
  static int columns_from(int64_t x, int64_t width) {
    return width - x < kColumns ? int(width - x) : kColumns;
  }

  float* in_plane(float* planes, int i, int64_t y, int64_t x) const {
    return planes + i * plane + (y - e.top + kMargin) * plane_row + (x + kMargin) * rp;
  }

  // A strip of `window` rows and kColumns columns: where it begins, and how much of it is inside.
  struct Place {
    int64_t y, x;
    int h, w;
  };
  Place strip_at(int64_t i) const {
    Place t;
    t.x = i % strip_columns() * kColumns;
    t.y = e.top + i / strip_columns() * e.window;
    t.h = e.H - t.y < e.window ? int(e.H - t.y) : e.window;
    t.w = columns_from(t.x, e.W);
    return t;
  }
};

}  // namespace MOCE_ISA
}  // namespace moce
