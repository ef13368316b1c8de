//! The lines of OpenMetrics 1.0 text.

use std::fmt::{Display, Write as _};

use crate::ipc::{LATENCY_BOUNDS_US, Latency};

#[derive(Default)]
pub(super) struct Text(pub(super) String);

#[derive(Clone, Copy)]
pub(super) enum Type {
    Gauge,
    Counter,
    Info,
    Histogram,
}

impl Text {
    pub(super) fn family(&mut self, name: &str, kind: Type, unit: &str, help: &str) {
        let kind = match kind {
            Type::Gauge => "gauge",
            Type::Counter => "counter",
            Type::Info => "info",
            Type::Histogram => "histogram",
        };
        self.line(format_args!("# TYPE {name} {kind}"));
        if !unit.is_empty() {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
        self.line(format_args!("# HELP {name} {help}"));
    }

    pub(super) fn gauge(&mut self, name: &str, unit: &str, help: &str, value: impl Display) {
        self.family(name, Type::Gauge, unit, help);
        self.sample::<&str>(name, &[], value);
    }

    pub(super) fn counted<V: AsRef<str>>(&mut self, name: &str, labels: &[(&str, V)], value: u64) {
        self.sample(&format!("{name}_total"), labels, value);
    }

    pub(super) fn sample<V: AsRef<str>>(
        &mut self,
        name: &str,
        labels: &[(&str, V)],
        value: impl Display,
    ) {
        let pairs: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text.as_ref())))
            .collect();
        if pairs.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", pairs.join(",")));
        }
    }

    pub(super) fn histogram(&mut self, outcome: &str, times: &Latency) {
        const NAME: &str = "clawsec_request_duration_seconds";
        let mut sum = 0_u64;
        for (place, count) in times.buckets.iter().enumerate() {
            sum = sum.saturating_add(*count);
            let bound = LATENCY_BOUNDS_US.get(place);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |us| decimal(*us, 6));
            let labels = [("outcome", outcome), ("le", &bound)];
            self.sample(&format!("{NAME}_bucket"), &labels, sum);
        }
        let labels = [("outcome", outcome)];
        self.sample(&format!("{NAME}_count"), &labels, sum);
        self.sample(&format!("{NAME}_sum"), &labels, decimal(times.sum_us, 6));
    }

    pub(super) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        writeln!(self.0, "{line}").unwrap_or_default();
    }
}

/// A whole number of parts of ten to the `digits` as a decimal, exact and with a point.
pub(super) fn decimal(parts: u64, digits: u32) -> String {
    let unit = 10_u64.pow(digits);
    let width = digits as usize;
    let fraction = format!("{:0width$}", parts % unit);
    let fraction = fraction.trim_end_matches('0');
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    format!("{}.{fraction}", parts / unit)
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
