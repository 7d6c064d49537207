//! Tokens to text, a piece at a time. A token alone may be half a character, and a space may depend on its neighbour, so
//! each piece is the difference between two decodings that share a context.

use super::Text;
use crate::error::Result;

pub struct Detokeniser {
    ids: Vec<u32>,
    /// Context that is decoded again and not emitted: prefix..read.
    prefix: usize,
    read: usize,
}

/// Tokens of the prompt that give the first generated token its context.
const CONTEXT_TOKENS: usize = 5;
/// A character has at most four bytes, a token at least one: what is incomplete for longer is not UTF-8 at all.
const HELD_TOKENS_MAX: usize = 8;
const REPLACEMENT: char = '\u{fffd}';

impl Detokeniser {
    pub fn new(prompt: &[u32]) -> Detokeniser {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT_TOKENS)..].to_vec();
        Detokeniser { prefix: 0, read: ids.len(), ids }
    }

    /// What this token adds to the text; empty while a character is incomplete.
    pub fn push(&mut self, text: &Text, id: u32) -> Result<String> {
        self.ids.push(id);
        let (known, all) = (text.decode(&self.ids[self.prefix..self.read])?, text.decode(&self.ids[self.prefix..])?);
        let held = self.ids.len() - self.read;
        if all.ends_with(REPLACEMENT) && held < HELD_TOKENS_MAX {
            return Ok(String::new());
        }
        let piece = added(&known, &all);
        self.prefix = self.read;
        self.read = self.ids.len();
        self.ids.drain(..self.prefix);
        self.read -= self.prefix;
        self.prefix = 0;
        Ok(piece)
    }

    /// What was held back, at the end of the answer.
    pub fn flush(&mut self, text: &Text) -> Result<String> {
        let (known, all) = (text.decode(&self.ids[self.prefix..self.read])?, text.decode(&self.ids[self.prefix..])?);
        self.read = self.ids.len();
        Ok(added(&known, &all))
    }
}

fn added(known: &str, all: &str) -> String {
    all.strip_prefix(known).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::byte_level;
    use super::*;

    #[test]
    fn characters_are_never_broken() {
        let text = byte_level();
        let ids = text.encode("aä€😀z", false).unwrap();
        assert_eq!(ids.len(), 11, "one token per byte");
        let mut detokeniser = Detokeniser::new(&[]);
        let pieces: Vec<String> = ids.iter().map(|id| detokeniser.push(&text, *id).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "ä", "", "", "€", "", "", "", "😀", "z"]);
        assert_eq!(detokeniser.flush(&text).unwrap(), "");
    }

    #[test]
    fn bytes_that_are_no_character_come_out_in_the_end() {
        let text = byte_level();
        let half = text.encode("€", false).unwrap()[0];
        let mut detokeniser = Detokeniser::new(&[]);
        let mut all = String::new();
        for _ in 0..HELD_TOKENS_MAX {
            all += &detokeniser.push(&text, half).unwrap();
        }
        assert!(!all.is_empty() && all.chars().all(|c| c == REPLACEMENT));
        assert_eq!(detokeniser.push(&text, half).unwrap(), "");
        assert_eq!(detokeniser.flush(&text).unwrap(), "\u{fffd}");
    }
}
