// Element types of the kernels, as told to the launchers.
#pragma once

enum class Scalar { f64, f32, f16, bf16 };
