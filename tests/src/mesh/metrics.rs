//! Prometheus text -> sums over series.
//!
//! Invariant: what does not parse is left out here; promtool is the judge of form.
//! Non-goal: types, help, exemplars, timestamps.

/// A page of metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    series: Vec<Series>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads a page.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { series: lines.filter_map(series).collect() }
    }

    /// The sum over all series of `name` whose labels have the given values.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |series: &Series| {
            let found = |(key, value): &(&str, &str)| series.labels.iter().any(|(k, v)| k == key && v == value);
            series.name == name && labels.iter().all(found)
        };
        // `Sum` of no float is -0.
        self.series.iter().filter(|series| has(series)).fold(0.0, |sum, series| sum + series.value)
    }

    /// The values of a label over all series of `name`.
    #[must_use]
    pub fn values(&self, name: &str, label: &str) -> Vec<&str> {
        let series = self.series.iter().filter(|series| series.name == name);
        let mut values: Vec<_> = series
            .flat_map(|series| &series.labels)
            .filter(|(key, _)| key == label)
            .map(|(_, value)| value.as_str())
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}

fn series(line: &str) -> Option<Series> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Series { name: name.to_owned(), labels, value })
}

/// `a="b",c="d"} 1` -> the labels and what is after the brace. Values may hold escaped quotes, commas and braces.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(value) = rest.strip_prefix('}') {
            return Some((found, value));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (at, '"') => break at,
                (_, other) => value.push(other),
            }
        };
        found.push((key.to_owned(), value));
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_over_the_labels_that_are_not_asked_for() {
        let metrics =
            Metrics::parse("# TYPE a counter\na{x=\"1\",y=\"p\"} 2\na{x=\"1\",y=\"q\"} 3\na{x=\"2\"} 4\na_b 9\n");
        assert_eq!(metrics.sum("a", &[("x", "1")]).to_bits(), 5f64.to_bits());
        assert_eq!(metrics.sum("a", &[]).to_bits(), 9f64.to_bits());
        assert_eq!(metrics.sum("a_b", &[]).to_bits(), 9f64.to_bits());
        assert_eq!(metrics.values("a", "x"), ["1", "2"]);
    }

    #[test]
    fn escaped_quotes_commas_and_braces_belong_to_the_value() {
        let metrics = Metrics::parse(r#"a{x="q\"},y=\"1"} 7"#);
        assert_eq!(metrics.values("a", "x"), [r#"q"},y="1"#]);
    }
}
