// Element types of the kernels.
#pragma once

enum class Scalar { f64, f32, f16, bf16 };
