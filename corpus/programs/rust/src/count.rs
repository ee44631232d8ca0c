//! Which words there are, and how often.

use std::collections::BTreeMap;

/// The most frequent words of some texts; of those that are as frequent, the first by the alphabet.
pub fn most_frequent<'a>(texts: impl Iterator<Item = &'a str>, most: usize) -> Vec<(&'a str, usize)> {
    let mut counts = BTreeMap::new();
    for word in texts.flat_map(str::split_whitespace) {
        *counts.entry(word).or_insert(0) += 1;
    }
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted.truncate(most);
    sorted
}

#[test]
fn words_are_counted() {
    assert_eq!(most_frequent(["b a b", "c"].into_iter(), 2), [("b", 2), ("a", 1)]);
}
