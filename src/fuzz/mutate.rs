//! Ways to spoil bytes that know what readers stumble over: numbers at their edges, lengths, repetitions, other samples.

use super::{Target, join, parts};
use crate::ltx::sample::Random;

/// Longest input; repetitions end here.
const BYTES_MAX: usize = 64 << 10;
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x1ff,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    u64::MAX,
];

/// The input of a seed: a sample changed a few times, mended more often than not.
pub fn input(target: &Target, samples: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let other = samples[random.below(samples.len() as u64) as usize].clone();
    let mut bytes = samples[random.below(samples.len() as u64) as usize].clone();
    if target.is_parts {
        let mut files = parts(&bytes);
        let others = parts(&other);
        for _ in 0..1 + random.below(2) {
            let at = random.below(files.len() as u64) as usize;
            spoil(&mut files[at], &others[at.min(others.len() - 1)], target.words, random);
        }
        bytes = join(&files);
    } else {
        spoil(&mut bytes, &other, target.words, random);
    }
    if random.below(4) > 0 { (target.mend)(&bytes) } else { bytes }
}

fn spoil(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    let most = 1 + random.below(6);
    for _ in 0..1 + random.below(most) {
        once(bytes, other, words, random);
        bytes.truncate(BYTES_MAX.max(other.len()));
    }
}

fn once(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    let mut pick = |end: usize| random.below(end.max(1) as u64) as usize;
    // Heads are where formats say what follows.
    let near = if pick(2) == 0 { bytes.len().min(128) } else { bytes.len() };
    let at = pick(near + 1).min(bytes.len());
    let some = 1 + pick(16);
    let end = (at + some).min(bytes.len());
    match pick(12) {
        0 if at < bytes.len() => bytes[at] ^= 1 << pick(8),
        1 if at < bytes.len() => bytes[at] = pick(256) as u8,
        2 => {
            let more: Vec<u8> = (0..some).map(|_| pick(256) as u8).collect();
            bytes.splice(at..at, more);
        }
        3 => drop(bytes.drain(at..end)),
        4 => bytes.truncate(at),
        5 => {
            // A stretch many times over.
            let end = (at + some * some).min(bytes.len());
            let stretch = bytes[at..end].to_vec();
            let times = 1 + pick(if stretch.len() < 64 { 400 } else { 4 });
            let more: Vec<u8> = stretch.iter().copied().cycle().take(stretch.len() * times).collect();
            bytes.splice(at..at, more);
        }
        6 => {
            let from = pick(other.len() + 1).min(other.len());
            let to = (from + some * some * 4).min(other.len());
            let over = if pick(2) == 0 { at } else { (at + to - from).min(bytes.len()) };
            bytes.splice(at..over, other[from..to].iter().copied());
        }
        7 if !words.is_empty() => {
            let word = words[pick(words.len())];
            let over = if pick(2) == 0 { at } else { end };
            bytes.splice(at..over, word.bytes());
        }
        _ => {
            let value = match pick(4) {
                0 => EDGES[pick(EDGES.len())].wrapping_add(pick(5) as u64).wrapping_sub(2),
                _ => EDGES[pick(EDGES.len())],
            };
            let width = [1, 2, 4, 4, 8][pick(5)];
            // Fields begin where their width divides.
            let at = if pick(4) == 0 { at } else { at / width * width };
            let wide = value.to_be_bytes();
            let mut number = wide[8 - width..].to_vec();
            if pick(4) == 0 {
                number.reverse();
            }
            if at + width <= bytes.len() {
                bytes[at..at + width].copy_from_slice(&number);
            }
        }
    }
}
