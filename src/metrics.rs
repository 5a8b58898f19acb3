//! Numbers that are read from outside: counters, histograms, and the text format of Prometheus.
//!
//! Whoever counts owns its numbers, and pays for each a relaxed addition at most; a reader comes
//! by now and then and writes them all into an [`Exposition`]. Nothing here knows what is counted
//! but [`WorkMeter`], which is for tasks and jobs alike.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How long things took, by buckets.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Upper bounds in microseconds, rising.
    bounds: &'static [u64],
    /// One for each bound, and one for what took longer.
    buckets: Box<[Counter]>,
    micros: Counter,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [u64]) -> Histogram {
        Histogram {
            bounds,
            buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(),
            micros: Counter::default(),
        }
    }

    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bounds = self.bounds.iter();
        let class = bounds.take_while(|&&bound| bound < micros).count();
        self.buckets[class].increment();
        self.micros.add(micros);
    }
}

/// From a millisecond to an hour: how long tasks wait and run.
const WORK_TIMES: &[u64] = &[
    1_000,
    5_000,
    25_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
];

/// The type of work whose own type nobody registered: clients choose types freely, and must not
/// be able to make the list grow.
const OTHER: &str = "other";

/// What becomes of tasks, or of jobs, by type.
#[derive(Debug)]
pub(crate) struct WorkMeter {
    /// Types may come while others are counted. No other lock is taken under this one.
    kinds: RwLock<Arc<Kinds>>,
}

/// The types that are told apart, sorted, and [`OTHER`] at the end.
#[derive(Debug, Default)]
pub(crate) struct Kinds(Vec<(Box<str>, Arc<KindMeter>)>);

/// What becomes of the work of one type.
#[derive(Debug)]
pub(crate) struct KindMeter {
    pub(crate) created: Counter,
    pub(crate) completed: Counter,
    pub(crate) failed: Counter,
    pub(crate) cancelled: Counter,
    /// Lines of logs.
    pub(crate) lines: Counter,
    /// From being queued to its first slice.
    pub(crate) wait: Histogram,
    /// From its first slice to its end, pauses included.
    pub(crate) run: Histogram,
}

impl Kinds {
    /// The place of a type among [`names`](Self::names).
    pub(crate) fn place(&self, kind: &str) -> usize {
        let other = self.0.len() - 1;
        let named = &self.0[..other];
        named
            .binary_search_by(|(name, _)| (**name).cmp(kind))
            .unwrap_or(other)
    }

    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }
}

impl KindMeter {
    fn new() -> KindMeter {
        KindMeter {
            created: Counter::default(),
            completed: Counter::default(),
            failed: Counter::default(),
            cancelled: Counter::default(),
            lines: Counter::default(),
            wait: Histogram::new(WORK_TIMES),
            run: Histogram::new(WORK_TIMES),
        }
    }
}

impl WorkMeter {
    /// Tells these types apart.
    pub(crate) fn new<'a>(kinds: impl Iterator<Item = &'a str>) -> WorkMeter {
        let meter = WorkMeter {
            kinds: RwLock::default(),
        };
        meter.add(kinds);
        meter
    }

    /// Tells these types apart, too. What was counted stays.
    pub(crate) fn add<'a>(&self, kinds: impl Iterator<Item = &'a str>) {
        let mut now = self.kinds.write();
        let known: BTreeMap<_, _> = now.0.iter().cloned().collect();
        let mut names: Vec<Box<str>> = kinds.map(Into::into).collect();
        names.extend(known.keys().cloned());
        names.retain(|name| **name != *OTHER);
        names.sort();
        names.dedup();
        names.push(OTHER.into());
        let kept = |name: Box<str>| {
            let meter = known.get(&name).cloned();
            (name, meter.unwrap_or_else(|| Arc::new(KindMeter::new())))
        };
        *now = Arc::new(Kinds(names.into_iter().map(kept).collect()));
    }

    /// The types that are told apart now.
    pub(crate) fn kinds(&self) -> Arc<Kinds> {
        self.kinds.read().clone()
    }

    pub(crate) fn of(&self, kind: &str) -> Arc<KindMeter> {
        let kinds = self.kinds.read();
        kinds.0[kinds.place(kind)].1.clone()
    }

    /// Writes it all, with names that begin with `noun`: `task_system_tasks`.
    pub(crate) fn write(&self, noun: &str, out: &mut Exposition) {
        let kinds = self.kinds();
        let name = format!("{noun}_created_total");
        out.family(&name, "counter", "Created, by type.");
        for (kind, meter) in &kinds.0 {
            out.sample(&name, &[("type", kind)], meter.created.value());
        }
        let name = format!("{noun}_finished_total");
        out.family(&name, "counter", "Attempts that ended, by type and how.");
        for (kind, meter) in &kinds.0 {
            for (status, counter) in [
                ("completed", &meter.completed),
                ("failed", &meter.failed),
                ("cancelled", &meter.cancelled),
            ] {
                let labels = [("type", &**kind), ("status", status)];
                out.sample(&name, &labels, counter.value());
            }
        }
        let name = format!("{noun}_log_lines_total");
        out.family(&name, "counter", "Lines of logs, by type.");
        for (kind, meter) in &kinds.0 {
            out.sample(&name, &[("type", kind)], meter.lines.value());
        }
        let name = format!("{noun}_wait_seconds");
        out.family(&name, "histogram", "From being queued to the first slice.");
        for (kind, meter) in &kinds.0 {
            out.histogram(&name, &[("type", kind)], &meter.wait);
        }
        let name = format!("{noun}_run_seconds");
        out.family(&name, "histogram", "From the first slice to the end.");
        for (kind, meter) in &kinds.0 {
            out.histogram(&name, &[("type", kind)], &meter.run);
        }
    }
}

/// Metrics as Prometheus reads them, text format 0.0.4.
#[derive(Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family; its samples follow.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        let mut before = '{';
        for (label, text) in labels {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            let text = text.replace('\n', "\\n");
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
            before = ',';
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A family of one number that goes up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    pub(crate) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &Histogram) {
        let bucket = format!("{name}_bucket");
        let bounds = of.bounds.iter().map(|&bound| seconds(bound).to_string());
        let mut so_far = 0;
        for (bound, class) in bounds.chain(["+Inf".to_owned()]).zip(&of.buckets) {
            so_far += class.value();
            let with_bound = [labels, &[("le", &bound)]].concat();
            self.sample(&bucket, &with_bound, so_far);
        }
        self.sample(&format!("{name}_sum"), labels, seconds(of.micros.value()));
        self.sample(&format!("{name}_count"), labels, so_far);
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_class_with_those_below() {
        let histogram = Histogram::new(&[1_000, 500_000]);
        for micros in [0, 1_000, 1_001, 700_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut out = Exposition::default();
        out.family("x_seconds", "histogram", "Help.");
        out.histogram("x_seconds", &[("a", "b")], &histogram);
        let wanted = "\
# HELP x_seconds Help.
# TYPE x_seconds histogram
x_seconds_bucket{a=\"b\",le=\"0.001\"} 2
x_seconds_bucket{a=\"b\",le=\"0.5\"} 3
x_seconds_bucket{a=\"b\",le=\"+Inf\"} 4
x_seconds_sum{a=\"b\"} 0.702001
x_seconds_count{a=\"b\"} 4
";
        assert_eq!(out.into_text(), wanted);
    }

    #[test]
    fn types_that_nobody_registered_are_counted_together() {
        let meter = WorkMeter::new(["b", "a", "other", "b"].into_iter());
        for kind in ["a", "b", "zz", "", "other"] {
            meter.of(kind).created.increment();
        }
        let created = |meter: &WorkMeter| -> Vec<(String, u64)> {
            let kinds = meter.kinds();
            let of = |name: &str| (name.to_owned(), meter.of(name).created.value());
            kinds.names().map(of).collect()
        };
        let counts = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
            pairs
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        assert_eq!(created(&meter), counts(&[("a", 1), ("b", 1), ("other", 3)]));
        // What comes later is told apart from then on, and nothing that was counted is lost.
        let before = meter.of("a");
        meter.add(["zz", "b"].into_iter());
        before.created.increment();
        meter.of("zz").created.increment();
        assert_eq!(
            created(&meter),
            counts(&[("a", 2), ("b", 1), ("zz", 1), ("other", 3)])
        );
    }

    #[test]
    fn a_label_cannot_end_its_line() {
        let mut out = Exposition::default();
        out.sample("x", &[("type", "a\"b\\c\nd"), ("y", "z")], 1);
        out.sample("x", &[], 0.5);
        assert_eq!(
            out.into_text(),
            "x{type=\"a\\\"b\\\\c\\nd\",y=\"z\"} 1\nx 0.5\n"
        );
    }
}
