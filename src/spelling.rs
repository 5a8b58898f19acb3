//! Misspelt names.

/// The name that `word` is almost: one or two letters off.
pub(crate) fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let close = names.filter_map(|name| {
        // Two letters off a name of four is another word: HOME is not a misspelt HOST.
        let tolerance = if name.len() <= 4 { 1 } else { 2 };
        let distance = distance(word, name);
        (distance <= tolerance).then_some((distance, name))
    });
    close.min().map(|(_, name)| name)
}

/// How many letters to insert, remove, replace or swap with a neighbour, to turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
