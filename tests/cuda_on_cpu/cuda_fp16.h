// Stands in for CUDA's half type: see cuda_runtime.h.
#pragma once

#include <c10/util/Half.h>

using __half = c10::Half;
inline float __half2float(__half v) { return v; }
inline __half __float2half_rn(float v) { return v; }
