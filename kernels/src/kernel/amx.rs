//! The tile unit of recent x86 servers (AMX): `bf16` and 8-bit products, sixteen rows by sixteen columns at a time. Everything
//! between products is AVX-512.
//!
//! The intrinsics are not stable, the instructions are assembler. A tile register never lives from one assembler block to the next.

#![allow(unsafe_code)] // Assembler, and calls of functions that are compiled for instructions which were asked for.

use std::arch::asm;
use std::sync::OnceLock;

use super::{Kernel, Operand, Packed, Then, block, compiled, from_row, task};
use crate::Precision;
use crate::dot::Dot;
use crate::dot::avx512::{F32, Int8};
use crate::pack::Format;
use crate::rows::{range, vectors};
use crate::simd::Lanes;
use crate::simd::avx512::F32x16;
use crate::tile::{Task, finish};

/// Columns a panel: two tiles.
const WIDTH: usize = 32;

/// Units that a tile is deep: 64 bytes.
const DEEP: usize = 16;

/// Rows of a tile, and columns.
const TILE: usize = 16;

/// The kernel.
#[derive(Debug)]
pub(crate) struct Amx {
    precision: Precision,
    format: Format,
}

impl Amx {
    /// The kernel, where the processor has the instructions and the system lets them be used. There is none for `f32`.
    pub(crate) fn find(precision: Precision) -> Option<Self> {
        let format = match precision {
            Precision::F32 => return None,
            Precision::Bf16 => Format::Bf16,
            Precision::Int8 => Format::Int8,
        };
        static ALLOWED: OnceLock<bool> = OnceLock::new();
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512vnni");
        (found && *ALLOWED.get_or_init(allowed)).then_some(Self { precision, format })
    }
}

/// Whether the processor has tiles, and Linux lets this process keep their state.
fn allowed() -> bool {
    // Leaf 7, EDX: bit 22 is AMX-BF16, 24 AMX-TILE, 25 AMX-INT8 (Intel's manual, volume 2, CPUID).
    let wanted = 1 << 22 | 1 << 24 | 1 << 25;
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    leaf.edx & wanted == wanted && cfg!(target_os = "linux") && permitted()
}

/// Asks Linux for the state of tiles: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, once for the process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let answer: i64;
    // SAFETY: a system call that changes nothing but the process's own permission, with the registers that it overwrites.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => answer, in("rdi") REQUEST, in("rsi") TILE_DATA,
             out("rcx") _, out("r11") _, options(nostack));
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles, sixteen rows of 64 bytes each.
static SHAPE: Shape = Shape {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The sums of four tiles: 32 rows of 32 columns.
#[repr(C, align(64))]
struct Sums([u32; 2 * TILE * WIDTH]);

/// Multiplies 32 or 16 rows with a panel, over the whole depth.
macro_rules! tiles {
    ($name:ident, $dot:literal) => {
        /// # Safety
        /// The tiles have their shape. `left` is valid for 32 (`two`) or 16 rows of `depth` units, tile after tile over the depth and
        /// then the next rows; `right` for `depth` units of `WIDTH` columns; `depth` is a multiple of `DEEP` and not zero.
        #[inline(always)]
        unsafe fn $name(left: *const u32, right: *const u32, depth: usize, two: bool, sums: &mut Sums) {
            // SAFETY: the caller's promise; all registers that change are named.
            unsafe {
                if two {
                    asm!(
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "2:",
                        "tileloadd tmm6, [{right} + {right_bytes}]",
                        "tileloadd tmm4, [{left} + {left_bytes}]",
                        "tileloadd tmm7, [{right} + {right_bytes} + 64]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        "tileloadd tmm5, [{below} + {left_bytes}]",
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        concat!($dot, " tmm2, tmm5, tmm6"),
                        concat!($dot, " tmm3, tmm5, tmm7"),
                        "add {left}, 1024",
                        "add {below}, 1024",
                        "add {right}, 2048",
                        "dec {count}",
                        "jnz 2b",
                        "tilestored [{sums} + {right_bytes}], tmm0",
                        "tilestored [{sums} + {right_bytes} + 64], tmm1",
                        "tilestored [{sums} + {right_bytes} + 2048], tmm2",
                        "tilestored [{sums} + {right_bytes} + 2112], tmm3",
                        left = inout(reg) left => _,
                        below = inout(reg) left.add(TILE * depth) => _,
                        left_bytes = in(reg) DEEP * 4,
                        right = inout(reg) right => _,
                        right_bytes = in(reg) WIDTH * 4,
                        count = inout(reg) depth / DEEP => _,
                        sums = in(reg) sums.0.as_mut_ptr(),
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                } else {
                    asm!(
                        "tilezero tmm0", "tilezero tmm1",
                        "2:",
                        "tileloadd tmm4, [{left} + {left_bytes}]",
                        "tileloadd tmm6, [{right} + {right_bytes}]",
                        "tileloadd tmm7, [{right} + {right_bytes} + 64]",
                        concat!($dot, " tmm0, tmm4, tmm6"),
                        concat!($dot, " tmm1, tmm4, tmm7"),
                        "add {left}, 1024",
                        "add {right}, 2048",
                        "dec {count}",
                        "jnz 2b",
                        "tilestored [{sums} + {right_bytes}], tmm0",
                        "tilestored [{sums} + {right_bytes} + 64], tmm1",
                        left = inout(reg) left => _,
                        left_bytes = in(reg) DEEP * 4,
                        right = inout(reg) right => _,
                        right_bytes = in(reg) WIDTH * 4,
                        count = inout(reg) depth / DEEP => _,
                        sums = in(reg) sums.0.as_mut_ptr(),
                        out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            }
        }
    };
}

tiles!(tiles_bf16, "tdpbf16ps");
tiles!(tiles_int8, "tdpbusd");

/// The product of rows in tiles. Rows up to the next 32 are multiplied too and thrown away.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni")]
fn product(task: &Task<'_>, format: Format, out: &mut [f32]) {
    task.check(WIDTH, out);
    let room = task.rows.next_multiple_of(TILE);
    assert!(task.left.len() >= room * task.left_step && task.depth.is_multiple_of(DEEP) && task.depth > 0, "whole tiles");
    let mut sums = Sums([0; 2 * TILE * WIDTH]);
    // SAFETY: the shape is a valid one; tiles are in use until they are released below.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPE, options(nostack, readonly)) };
    for (panel, right) in task.right.chunks_exact(task.depth * WIDTH).take(task.columns.div_ceil(WIDTH)).enumerate() {
        let mut row = 0;
        while row < task.rows {
            let two = room - row > TILE;
            let left = task.left[row * task.left_step..].as_ptr();
            // SAFETY: the tiles have their shape, `left` has whole tiles of rows and the panel is of the task's depth.
            unsafe {
                if format == Format::Bf16 {
                    tiles_bf16(left, right.as_ptr(), task.depth, two, &mut sums);
                } else {
                    tiles_int8(left, right.as_ptr(), task.depth, two, &mut sums);
                }
            }
            let rows = (task.rows - row).min(if two { 2 * TILE } else { TILE });
            for r in 0..rows {
                for v in 0..2 {
                    let from = sums.0[r * WIDTH + v * TILE..][..TILE].as_ptr();
                    // SAFETY: sixteen sums, as the format has them.
                    let value = unsafe {
                        if format == Format::Bf16 { F32::finish(F32::load(from)) } else { Int8::finish(Int8::load(from)) }
                    };
                    finish::<F32x16>(task, value, row + r, panel * WIDTH + v * TILE, out);
                }
            }
            row += 2 * TILE;
        }
    }
    // SAFETY: gives back what `ldtilecfg` took.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Rows as tiles: sixteen rows of sixteen units one after another, over the depth, then the next sixteen rows. What is behind a
/// row's numbers is zero; what is behind the last row is whatever was there.
#[inline(always)]
fn convert(x: &[f32], weights: &Packed, to: &mut Operand) {
    let (depth, units, per_unit) = (weights.depth, weights.unit_depth, weights.format.per_unit());
    let rows = x.len() / depth;
    to.units.reserve(rows.next_multiple_of(2 * TILE) * units);
    to.scale.resize(rows, 0.0);
    to.least.resize(rows, 0.0);
    for (i, row) in x.chunks_exact(depth).enumerate() {
        let tiles = &mut to.units.as_mut()[i / TILE * TILE * units..][..TILE * units];
        let place = |unit: usize| unit / DEEP * TILE * DEEP + i % TILE * DEEP + unit % DEEP;
        if !depth.is_multiple_of(DEEP * per_unit) {
            tiles[place(units - DEEP)..][..DEEP].fill(0);
        }
        let start = tiles.as_mut_ptr();
        // SAFETY, for both: a vector's numbers begin at a unit and fill at most eight, which are of one row of one tile.
        if weights.format == Format::Bf16 {
            vectors::<F32x16>(row, |value, at| unsafe {
                value.store_bf16(start.add(place(at / 2)).cast(), (depth - at).min(F32x16::LANES));
            });
        } else {
            let (scale, least) = range::<F32x16>(row);
            (to.scale[i], to.least[i]) = (scale, least);
            let (by, least) = (F32x16::splat(if scale > 0.0 { 1.0 / scale } else { 0.0 }), F32x16::splat(least));
            vectors::<F32x16>(row, |value, at| unsafe {
                let value = value.sub(least).mul(by);
                value.store_bytes(start.add(place(at / 4)).cast(), (depth - at).min(F32x16::LANES));
            });
        }
    }
}

/// [`Kernel::product`]: rows are converted and multiplied block by block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni")]
fn linear(x: &[f32], weights: &Packed, then: Then<'_>, out: &mut [f32], operand: &mut Operand) {
    let rows = x.len() / weights.depth;
    let block = block(weights.unit_depth);
    let mut first = 0;
    while first < rows {
        let count = block.min(rows - first);
        let part = &x[first * weights.depth..][..count * weights.depth];
        convert(part, weights, operand);
        let then = from_row(then, first, weights.columns);
        let mut task = task(operand.units.as_slice(), weights.unit_depth, count, weights, then);
        if weights.format == Format::Int8 {
            task.scales = Some((&operand.scale, &operand.least, &weights.scale, &weights.sum));
        }
        product(&task, weights.format, &mut out[first * weights.columns..]);
        first += count;
    }
}

impl Kernel for Amx {
    fn name(&self) -> &'static str {
        "amx"
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn pack(&self, weight: &[f32], bias: &[f32], depth: usize) -> Packed {
        Packed::new(weight, bias, depth, self.format, WIDTH, DEEP)
    }

    fn product(&self, x: &[f32], weights: &Packed, then: Then<'_>, out: &mut [f32], operand: &mut Operand) {
        assert!(weights.format == self.format && weights.width == WIDTH, "weights of this kernel");
        // SAFETY: the processor was asked for the instructions when the kernel was made.
        unsafe { linear(x, weights, then, out, operand) }
    }

    compiled!(F32x16, F32, 8, 3, "avx512f,avx512bw,avx512vl,avx512dq");
}
