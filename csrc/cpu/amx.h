// Whether AMX may be used.
#pragma once

namespace moce {

// This processor has AMX for bfloat16, and the system lets this process use it.
bool amx_usable();

}  // namespace moce
