//! Stop strings, found across pieces of text. What could be the beginning of one is held back until it is not.

pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// Empty strings are not allowed; the caller checked.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher { stops, held: String::new() }
    }

    /// The text that is safe to emit, and whether a stop string was met (it and what follows are dropped).
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        if self.stops.is_empty() {
            return (piece.to_string(), false);
        }
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, at the end of the answer.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a beginning of `stop`, but not all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().rev().map(|(at, _)| at);
    lengths.into_iter().find(|length| text.ends_with(&stop[..*length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|stop| stop.to_string()).collect())
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_never_emitted() {
        let mut stops = matcher(&["END", "\n\n"]);
        assert_eq!(stops.push("one E"), ("one ".into(), false));
        assert_eq!(stops.push("N"), ("".into(), false));
        assert_eq!(stops.push("T and\n"), ("ENT and".into(), false));
        assert_eq!(stops.push("EN"), ("\n".into(), false));
        assert_eq!(stops.push("D more"), ("".into(), true));
    }

    #[test]
    fn the_earliest_stop_wins_and_held_text_is_flushed() {
        let mut stops = matcher(&["bc", "ab"]);
        assert_eq!(stops.push("xxabc"), ("xx".into(), true));
        let mut stops = matcher(&["äöü"]);
        assert_eq!(stops.push("zäö"), ("z".into(), false));
        assert_eq!(stops.flush(), "äö");
    }
}
