// The weights of an expert, role by role. ExpertWeights in moce_kernels/expert_weights.py defines
// them and their order; tests/ops/test_grouped_experts.py holds this table against it.
#pragma once

namespace moce {

// X(role, floats that an expert of rank r on C channels has of it)
#define MOCE_EXPERT_ROLES(X)                                        \
  X(in_proj, r * C)             /* (r, C) */                        \
  X(mod_proj, r * C)            /* (r, C) */                        \
  X(out_proj, r * C)            /* (r, C) */                        \
  X(query, r * r)               /* (r, r) */                        \
  X(query_dw, r * 9)            /* (r, 3, 3) */                     \
  X(query_dw_bias, r)           /* (r,) */                          \
  X(key_value, 2 * r * r)       /* (2r, r), keys before values */   \
  X(key_value_dw, 2 * r * 49)   /* (2r, 7, 7) */                    \
  X(key_value_dw_bias, 2 * r)   /* (2r,) */                         \
  X(norm, r)                    /* (r,): LayerNorm over channels */ \
  X(norm_bias, r)               /* (r,) */                          \
  X(attn_out, r * r)            /* (r, r) */                        \
  X(attn_out_bias, r)           /* (r,) */

// Where one expert's weights are, or where their gradients go.
struct ExpertWeights {
#define MOCE_EXPERT_MEMBER(role, floats) float* role;
  MOCE_EXPERT_ROLES(MOCE_EXPERT_MEMBER)
#undef MOCE_EXPERT_MEMBER
};

}  // namespace moce
