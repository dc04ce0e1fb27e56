//! Every kernel that this processor has against the plain reference, and against itself.

use crate::kernel::{Attention, Kernel, Operand, Room, Then, available, choose};
use crate::math::{Fit, exp, gelu};
use crate::simd::{Lanes, One};
use crate::{Encoder, Pooling, Precision, Scratch, Shape, Table, Wrong};

/// Numbers that look like weights and activations: the same on every run, from -1 to 1 with a few large ones.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let number = (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
            if i % 61 == 7 { number * 6.0 } else { number }
        })
        .collect()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn kernels() -> Vec<Box<dyn Kernel>> {
    let found: Vec<_> = Precision::ALL.into_iter().flat_map(available).collect();
    assert!(found.len() >= 6, "gemm and reference are everywhere");
    found
}

/// (depth, outputs): the models' own shapes, and some that fill no vector, tile or panel.
const SHAPES: [(usize, usize); 6] = [(384, 1152), (384, 384), (1536, 384), (32, 37), (7, 5), (130, 49)];

fn product(kernel: &dyn Kernel, x: &[f32], depth: usize, outputs: usize, then: Then<'_>) -> Vec<f32> {
    let bias = numbers(outputs, 3);
    let weights = kernel.pack(&numbers(depth * outputs, 2), &bias, depth);
    let mut out = vec![f32::NAN; x.len() / depth * outputs];
    kernel.product(x, &weights, then, &mut out, &mut Operand::default());
    out
}

#[test]
fn products_are_the_references() {
    for (depth, outputs) in SHAPES {
        for rows in [1, 3, 37] {
            let x = numbers(rows * depth, 1);
            let (more, scales) = (numbers(rows * outputs, 4), numbers(rows, 5));
            for then in [Then::Keep, Then::Gelu, Then::ShortGelu, Then::Add(&more), Then::Scale(&scales)] {
                for precision in Precision::ALL {
                    let reference = choose(precision, Some("reference")).unwrap();
                    let wanted = product(reference.as_ref(), &x, depth, outputs, then);
                    let size = wanted.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
                    for kernel in available(precision) {
                        let found = product(kernel.as_ref(), &x, depth, outputs, then);
                        let off = farthest(&found, &wanted);
                        // The order of sums; for whole numbers also a half that is rounded to the other side.
                        let bound = match (precision, then) {
                            (Precision::F32 | Precision::Bf16, Then::ShortGelu) => 1e-4 + 4e-6 * size,
                            (Precision::Int8, _) => 2e-3 * size,
                            _ => 4e-6 * size,
                        };
                        assert!(off <= bound, "{} {precision:?} {depth}×{outputs}, {rows} rows, {then:?}: {off}", kernel.name());
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_wherever_it_stands() {
    for kernel in kernels() {
        for (depth, outputs) in [(384, 100), (130, 49)] {
            let x = numbers(150 * depth, 1);
            let all = product(kernel.as_ref(), &x, depth, outputs, Then::Gelu);
            for (first, count) in [(0, 1), (149, 1), (5, 2), (17, 7), (31, 34), (3, 100)] {
                let some = product(kernel.as_ref(), &x[first * depth..][..count * depth], depth, outputs, Then::Gelu);
                assert_eq!(some, all[first * outputs..][..count * outputs], "{} {:?}", kernel.name(), kernel.precision());
            }
        }
    }
}

#[test]
fn attention_layer_norm_and_pooling_are_the_references() {
    let reference = choose(Precision::F32, Some("reference")).unwrap();
    for (heads, width) in [(12, 32), (2, 64), (3, 5)] {
        let hidden = heads * width;
        let lengths = [1, 5, 0, 48, 130, 33];
        let rows: usize = lengths.iter().sum();
        let (qkv, gamma, beta) = (numbers(rows * 3 * hidden, 1), numbers(hidden, 2), numbers(hidden, 3));
        let task = Attention { qkv: &qkv, lengths: &lengths, heads, width };
        let mut wanted = vec![0.0; rows * hidden];
        reference.attention(&task, &mut wanted, &mut Room::default());
        let mut wanted_norm = wanted.clone();
        reference.layer_norm(&mut wanted_norm, &gamma, &beta, 1e-12);
        for kernel in kernels() {
            let bound = if kernel.precision() == Precision::F32 { 1e-5 } else { 4e-2 };
            let mut found = vec![f32::NAN; rows * hidden];
            kernel.attention(&task, &mut found, &mut Room::default());
            assert!(farthest(&found, &wanted) < bound, "{} {}", kernel.name(), farthest(&found, &wanted));
            let mut alone = vec![f32::NAN; 130 * hidden];
            let only = Attention { qkv: &qkv[54 * 3 * hidden..][..130 * 3 * hidden], lengths: &[130], ..task };
            kernel.attention(&only, &mut alone, &mut Room::default());
            assert_eq!(alone, found[54 * hidden..][..130 * hidden], "{}", kernel.name());

            let mut norm = wanted.clone();
            kernel.layer_norm(&mut norm, &gamma, &beta, 1e-12);
            assert!(farthest(&norm, &wanted_norm) < 1e-4, "{} {}", kernel.name(), farthest(&norm, &wanted_norm));
            for (pooling, normalize) in [(Pooling::Mean, true), (Pooling::Cls, true), (Pooling::Mean, false)] {
                let (mut one, mut other) = (vec![0.0; hidden], vec![0.0; hidden]);
                reference.pool(&wanted, pooling, normalize, &mut one);
                kernel.pool(&wanted, pooling, normalize, &mut other);
                assert!(farthest(&one, &other) < 1e-5, "{} {pooling:?}", kernel.name());
            }
        }
    }
}

#[test]
fn softmax_survives_scores_that_are_far_apart() {
    for kernel in kernels() {
        let qkv = [100.0, 100.0, 1.0, 100.0, -100.0, 2.0];
        let mut out = [0.0; 2];
        let task = Attention { qkv: &qkv, lengths: &[2], heads: 1, width: 1 };
        kernel.attention(&task, &mut out, &mut Room::default());
        assert!(farthest(&out, &[1.0, 1.0]) < 1e-6, "{} {out:?}", kernel.name());
    }
}

fn one(value: One) -> f32 {
    value.sum()
}

#[test]
fn exp_and_gelu_are_as_exact_as_they_say() {
    for i in 0..=870_000 {
        let x = -(i as f32) / 1e4;
        let wanted = f64::from(x).exp();
        let found = f64::from(one(exp(One::splat(x))));
        assert!((found / wanted - 1.0).abs() < 4e-7, "exp({x}): {found} is not {wanted}");
    }
    assert!(one(exp(One::splat(f32::MIN))) < 1e-37);
    for i in -120_000..=120_000 {
        let x = i as f32 / 1e4;
        let wanted = f64::from(x) * 0.5 * (1.0 + crate::kernel::erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2));
        for (fit, bound) in [(Fit::Exact, 1e-6), (Fit::Short, 6e-5)] {
            let found = f64::from(one(gelu(One::splat(x), fit)));
            assert!(
                (found - wanted).abs() < bound + (f64::from(x).abs() - 5.6).max(0.0) * 2e-7,
                "{fit:?} gelu({x}): {found} is not {wanted}"
            );
        }
    }
}

#[test]
fn an_unknown_kernel_is_refused_with_the_known_ones() {
    let error = choose(Precision::F32, Some("abacus")).unwrap_err();
    assert!(error.contains("abacus") && error.contains("gemm") && error.contains("reference"), "{error}");
}

const SMALL: Shape =
    Shape { hidden: 24, layers: 2, heads: 4, inner: 50, vocabulary: 40, positions: 70, segments: 2, epsilon: 1e-12 };

fn small(kernel: Box<dyn Kernel>) -> Encoder {
    let mut seed = 10;
    let words = Box::new(Table { numbers: numbers(SMALL.vocabulary * SMALL.hidden, 9), hidden: SMALL.hidden });
    Encoder::new::<Wrong>(SMALL, kernel, words, |_, shape| {
        seed += 1;
        Ok(numbers(shape.iter().product(), seed))
    })
    .unwrap()
}

fn encode(model: &Encoder, sequences: &[&[u32]], pooling: Pooling) -> Result<Vec<f32>, Wrong> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
    let mut out = vec![f32::NAN; sequences.len() * SMALL.hidden];
    model.encode(&sequences.concat(), &lengths, pooling, true, &mut Scratch::default(), &mut out)?;
    Ok(out)
}

#[test]
fn a_whole_model_is_the_references_and_blind_to_its_batch() {
    let tokens: Vec<u32> = numbers(200, 77).iter().map(|number| (number.abs() * 39.0) as u32 % 40).collect();
    let sequences: [&[u32]; 4] = [&tokens[..1], &tokens[1..60], &tokens[60..65], &tokens[65..135]];
    for precision in Precision::ALL {
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let wanted = encode(&small(choose(precision, Some("reference")).unwrap()), &sequences, pooling).unwrap();
            for kernel in available(precision) {
                let name = kernel.name();
                let model = small(kernel);
                let found = encode(&model, &sequences, pooling).unwrap();
                let bound = [1e-4, 2e-2, 0.2][precision as usize];
                assert!(farthest(&found, &wanted) < bound, "{name} {precision:?} {}", farthest(&found, &wanted));
                let turned = encode(&model, &[sequences[3], sequences[0], sequences[1]], pooling).unwrap();
                assert_eq!(turned[..24], found[72..], "{name} {precision:?}");
                assert_eq!(turned[24..], found[..48], "{name} {precision:?}");
            }
        }
    }
}

#[test]
fn what_the_model_cannot_take_is_an_error() {
    let model = small(choose(Precision::F32, None).unwrap());
    assert_eq!(encode(&model, &[&[1, 40]], Pooling::Mean), Err(Wrong::Token(40)));
    assert_eq!(encode(&model, &[&[1; 71]], Pooling::Mean), Err(Wrong::Length(71)));
    assert_eq!(encode(&model, &[&[1], &[]], Pooling::Mean), Err(Wrong::Length(0)));
    assert_eq!(encode(&model, &[], Pooling::Mean), Ok(Vec::new()));
    let kernel = choose(Precision::F32, None).unwrap();
    let words = Box::new(Table { numbers: Vec::new(), hidden: 24 });
    let error = Encoder::new::<Wrong>(Shape { heads: 5, ..SMALL }, kernel, words, |_, _| Ok(Vec::new())).unwrap_err();
    assert!(error.to_string().contains('5'), "{error}");
}
