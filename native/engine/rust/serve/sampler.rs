//! From logits to a token. Pure: the choice depends on the logits, the parameters and (seed, position) only, so an answer
//! can be continued elsewhere from the tokens that it has.

use super::events::TokenLogprobs;
use crate::error::{Error, Result};
use std::collections::HashMap;

#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    pub top_p: f32,
    /// 0 is all.
    pub top_k: usize,
    pub seed: u64,
    pub logit_bias: Vec<(u32, f32)>,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
}

/// Candidates that are sorted first when only the most likely are wanted; few distributions need more.
const CANDIDATES: usize = 256;

/// Chooses the token at `position` of its sequence. `counts`: how often each token was generated before.
pub fn sample(logits: &mut [f32], sampling: &Sampling, counts: &HashMap<u32, u32>, position: usize) -> Result<u32> {
    for (token, bias) in &sampling.logit_bias {
        logits[*token as usize] += bias;
    }
    if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
        for (token, count) in counts {
            logits[*token as usize] -= sampling.presence_penalty + sampling.frequency_penalty * *count as f32;
        }
    }
    let best = argmax(logits);
    if !logits[best].is_finite() {
        return Err(Error::internal("the model gave no finite logits").remedy("Check the weights."));
    }
    if sampling.temperature == 0.0 {
        return Ok(best as u32);
    }
    Ok(draw(logits, best, sampling, uniform(sampling.seed, position)) as u32)
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] || logits[best].is_nan() {
            best = token;
        }
    }
    best
}

/// Inverse of the cumulative distribution, in falling order of likelihood when top-k or top-p cut it, else by token.
fn draw(logits: &mut [f32], best: usize, sampling: &Sampling, uniform: f64) -> usize {
    let (max, inverse) = (logits[best], 1.0 / sampling.temperature);
    let weight = |logit: f32| f64::from(((logit - max) * inverse).exp());
    if sampling.top_k == 0 && sampling.top_p >= 1.0 {
        let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
        let by_token = logits.iter().enumerate().map(|(token, logit)| (token, weight(*logit)));
        return pick(by_token, total * uniform).unwrap_or(best);
    }
    let all: f64 = if sampling.top_p < 1.0 { logits.iter().map(|logit| weight(*logit)).sum() } else { f64::INFINITY };
    let most = if sampling.top_k == 0 { logits.len() } else { sampling.top_k.min(logits.len()) };
    let mut wanted = most.min(CANDIDATES);
    loop {
        let mut kept = Vec::with_capacity(wanted);
        let mut total = 0.0;
        let mut enough = false;
        // With top-k the nucleus is taken of the k most likely, renormalised.
        let candidates = largest(logits, wanted);
        let reference = match sampling.top_k {
            0 => all,
            _ => candidates.iter().map(|token| weight(logits[*token])).sum(),
        };
        for token in candidates {
            let w = weight(logits[token]);
            kept.push((token, w));
            total += w;
            if sampling.top_p < 1.0 && total >= f64::from(sampling.top_p) * reference {
                enough = true;
                break;
            }
        }
        if enough || wanted == most {
            return pick(kept.into_iter(), total * uniform).unwrap_or(best);
        }
        wanted = (wanted * 16).min(most);
    }
}

/// The `count` tokens with the largest logits, in falling order; equal ones by token.
fn largest(logits: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, order);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(order);
    tokens
}

fn pick(weights: impl Iterator<Item = (usize, f64)>, target: f64) -> Option<usize> {
    let mut sum = 0.0;
    let mut last = None;
    for (token, weight) in weights {
        sum += weight;
        if weight > 0.0 {
            last = Some(token);
        }
        if sum > target {
            return Some(token);
        }
    }
    last
}

/// A number in 0..1 from (seed, position): two rounds of splitmix64 (https://prng.di.unimi.it/splitmix64.c).
fn uniform(seed: u64, position: usize) -> f64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (mix(mix(seed) ^ position as u64) >> 11) as f64 / (1u64 << 53) as f64
}

/// Log probabilities of `token` and of the `count` most likely, by the model's own distribution.
pub fn logprobs(logits: &[f32], token: u32, count: usize) -> TokenLogprobs {
    let max = f64::from(logits[argmax(logits)]);
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - max).exp()).sum();
    let log_sum = max + sum.ln();
    let of = |token: usize| f64::from(logits[token]) - log_sum;
    let top = largest(logits, count.min(logits.len())).into_iter().map(|token| (token as u32, of(token))).collect();
    TokenLogprobs { token, logprob: of(token as usize), top }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            seed: 42,
            logit_bias: vec![],
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }

    /// How often each token is drawn at as many positions.
    fn frequencies(logits: &[f32], sampling: &Sampling, positions: usize) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for position in 0..positions {
            let token = sample(&mut logits.to_vec(), sampling, &HashMap::new(), position).unwrap();
            counts[token as usize] += 1.0 / positions as f64;
        }
        counts
    }

    #[test]
    fn draws_follow_the_distribution_whichever_way_it_is_walked() {
        let logits = [0.0, 2f32.ln(), 5f32.ln(), f32::NEG_INFINITY];
        let expected = [0.125, 0.25, 0.625, 0.0];
        for top_k in [0, 3] {
            let seen = frequencies(&logits, &Sampling { top_k, ..sampling() }, 20_000);
            assert!(seen.iter().zip(expected).all(|(s, e)| (s - e).abs() < 0.015), "{seen:?}");
        }
        let sharp = frequencies(&logits, &Sampling { temperature: 0.5, ..sampling() }, 20_000);
        assert!((sharp[2] - 25.0 / 30.0).abs() < 0.015, "{sharp:?}");
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits: Vec<f32> = (0..5_000).map(|i| -(i as f32) * 1e-3).collect();
        let kept = |s: Sampling| frequencies(&logits, &s, 2_000).iter().rposition(|f| *f > 0.0).unwrap();
        assert!(kept(Sampling { top_k: 10, ..sampling() }) < 10);
        // The nucleus of half the mass is larger than the first batch of candidates.
        let mass = |n: usize| (1.0 - (-(n as f64) * 1e-3).exp()) / (1.0 - (-5.0f64).exp());
        let last = kept(Sampling { top_p: 0.5, ..sampling() });
        assert!(mass(last) < 0.5 && mass(last) > 0.47, "{last}");
        assert_eq!(kept(Sampling { top_p: 1e-6, ..sampling() }), 0);
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_obeys_bias_and_penalties() {
        let greedy = Sampling { temperature: 0.0, ..sampling() };
        let choose = |s: &Sampling, counts: &[(u32, u32)]| {
            sample(&mut [1.0, 3.0, 3.0, 2.9], s, &counts.iter().copied().collect(), 0).unwrap()
        };
        assert_eq!(choose(&greedy, &[]), 1);
        assert_eq!(choose(&Sampling { logit_bias: vec![(1, -100.0), (3, 1.0)], ..greedy.clone() }, &[]), 3);
        assert_eq!(choose(&Sampling { presence_penalty: 0.05, ..greedy.clone() }, &[(1, 1)]), 2);
        assert_eq!(choose(&Sampling { frequency_penalty: 0.2, ..greedy.clone() }, &[(1, 1), (2, 1)]), 3);
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(sample(&mut [bad; 3], &sampling(), &HashMap::new(), 0).is_err());
        }
    }

    #[test]
    fn log_probabilities_add_up_to_one() {
        let logits = [0.3f32, -1.0, 2.0];
        let all = logprobs(&logits, 1, 5);
        assert_eq!(all.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [2, 0, 1]);
        assert!((all.top.iter().map(|(_, l)| l.exp()).sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(all.logprob, all.top[2].1);
    }
}
