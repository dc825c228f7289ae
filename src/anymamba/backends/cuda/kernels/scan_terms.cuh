// The terms of the scan that all its kernels compute alike.
#pragma once
#include "lanes.cuh"

// The step size from what the projection gave.
__device__ __forceinline__ float step_size(float raw, float bias) {
#if SOFTPLUS
    return softplus(raw + bias);
#else
    return raw + bias;
#endif
}

// The factor of a state over one step or several. The unit of exp2_fast errs by up to 2^-22, and in one direction over a range of x: a
// state that decays slowly adds that up over its memory. Nothing beside the rounding of 16-bit inputs, but more than float32 allows.
// share: of a plan that takes some decays off that unit where it is the bottleneck.
__device__ __forceinline__ float decay_of(float power, bool share = false) {
    return sizeof(TU) == 4 || share ? exp2_polynomial(power) : exp2_fast(power);
}
