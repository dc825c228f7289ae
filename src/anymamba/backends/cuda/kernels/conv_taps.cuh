// What the convolution's kernels compute alike. TAPS: taps; REACH: steps before its own that an output sees.
#pragma once
#include "lanes.cuh"

constexpr int REACH = TAPS - 1;

// What a step gives, and the factor of its gradient: (1, value) or silu and its derivative.
__device__ __forceinline__ float activated(float x) { return SILU ? x * sigmoid(x) : x; }
__device__ __forceinline__ float slope(float x) {
    if (!SILU) return 1.0f;
    const float s = sigmoid(x);
    return s * fmaf(x, 1.0f - s, 1.0f);
}
