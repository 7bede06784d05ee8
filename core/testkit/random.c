/* SPDX-License-Identifier: Apache-2.0 */
/* Splitmix64, numbers drawn with it, and floats encoded as each element type. */
#include "core/testkit/random.h"

#include <math.h>
#include <string.h>

/* splitmix64 */
uint32_t kv_random_u32(struct kv_random *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)(z ^ z >> 31);
}

uint32_t kv_random_range(struct kv_random *r, uint32_t low, uint32_t high)
{
	return low + kv_random_u32(r) % (high - low + 1);
}

float kv_random_normal(struct kv_random *r)
{
	double sum = -6;
	int i;

	for (i = 0; i < 12; i++)
		sum += kv_random_u32(r) * 0x1p-32;
	return (float)sum;
}

/* To nearest, ties to even; below the normal range too. */
static uint16_t to_f16(float f)
{
	uint32_t bits, sign, magnitude, lost;

	memcpy(&bits, &f, sizeof(bits));
	sign = bits >> 16 & 0x8000;
	magnitude = bits & 0x7fffffff;
	if (magnitude > 0x7f800000)
		return (uint16_t)(sign | 0x7e00);
	if (magnitude >= 0x477ff000)
		return (uint16_t)(sign | 0x7c00);
	if (magnitude < 0x38800000)
		return (uint16_t)(sign | (uint32_t)lrintf(fabsf(f) * 0x1p24f));
	lost = magnitude & 0x1fff;
	magnitude = (magnitude - 0x38000000) >> 13;
	if (lost > 0x1000 || (lost == 0x1000 && magnitude & 1))
		magnitude++;
	return (uint16_t)(sign | magnitude);
}

static uint16_t to_bf16(float f)
{
	uint32_t bits;

	memcpy(&bits, &f, sizeof(bits));
	if (isnan(f))
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void block_to_q8_0(const float *src, unsigned char *dst)
{
	float largest = 0, d;
	uint16_t scale;
	int i;

	for (i = 0; i < 32; i++)
		largest = fmaxf(largest, fabsf(src[i]));
	d = largest / 127;
	scale = to_f16(d);
	memcpy(dst, &scale, sizeof(scale));
	for (i = 0; i < 32; i++)
		dst[2 + i] = (unsigned char)(signed char)(d > 0 ? lrintf(src[i] / d) : 0);
}

/* The element farthest from 0 becomes -8 or the other end's 7. */
static void block_to_q4_0(const float *src, unsigned char *dst)
{
	float farthest = 0, d;
	uint16_t scale;
	long n;

	for (int i = 0; i < 32; i++)
		farthest = fabsf(src[i]) > fabsf(farthest) ? src[i] : farthest;
	d = farthest / -8;
	scale = to_f16(d);
	memcpy(dst, &scale, sizeof(scale));
	memset(dst + 2, 0, 16);
	for (int i = 0; i < 32; i++) {
		n = 8 + (d != 0 ? lrintf(src[i] / d) : 0);
		dst[2 + i % 16] |= (unsigned char)((n > 15 ? 15 : n) << (i / 16 * 4));
	}
}

void kv_encode(uint32_t type, const float *src, size_t n, void *dst)
{
	unsigned char *out = dst;
	size_t i;

	if (type == KVMOD_F32)
		memcpy(out, src, n * sizeof(*src));
	else if (type == KVMOD_Q8_0)
		for (i = 0; i < n; i += 32, out += 34)
			block_to_q8_0(src + i, out);
	else if (type == KVMOD_Q4_0)
		for (i = 0; i < n; i += 32, out += 18)
			block_to_q4_0(src + i, out);
	else
		for (i = 0; i < n; i++, out += 2) {
			uint16_t h = type == KVMOD_F16 ? to_f16(src[i]) : to_bf16(src[i]);

			memcpy(out, &h, sizeof(h));
		}
}

const char *kv_type_name(uint32_t type)
{
	static const char *const names[] = { "?", "f32", "f16", "bf16", "q8_0", "q4_0" };

	return names[type <= KVMOD_Q4_0 ? type : 0];
}
