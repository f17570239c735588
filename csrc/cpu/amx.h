// Whether AMX may be used.
#pragma once

namespace moce {

enum class Amx { kAbsent, kUsed, kWrong };

// kUsed where this processor has AMX for bfloat16, the system lets this process use it, MOCE_AMX is
// not 0, and a product comes out right; kWrong where it does not. Decided once.
Amx amx();
bool amx_usable();  // kUsed

struct AmxKernel {
  bool (*right)();  // whether a product by tiles is
};

}  // namespace moce
