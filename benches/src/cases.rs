//! Figures of all contenders and rounds, brought together.

use std::collections::BTreeMap;

use mp_bench::{Figure, median};

use crate::shown;

/// One case of one workload, by contender.
#[derive(serde::Serialize)]
pub(crate) struct Case {
    pub(crate) workload: String,
    pub(crate) param: String,
    pub(crate) unit: String,
    pub(crate) medians: BTreeMap<String, f64>,
    pub(crate) notes: BTreeMap<String, String>,
}

pub(crate) fn medians(figures: &[Figure]) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut values: BTreeMap<(usize, String), Vec<f64>> = BTreeMap::new();
    for figure in figures {
        let known = cases
            .iter()
            .position(|case| (&case.workload, &case.param) == (&figure.workload, &figure.param));
        let index = known.unwrap_or(cases.len());
        if known.is_none() {
            cases.push(Case {
                workload: figure.workload.clone(),
                param: figure.param.clone(),
                unit: figure.unit.clone(),
                medians: BTreeMap::new(),
                notes: BTreeMap::new(),
            });
        }
        if let Some(note) = &figure.note {
            let notes = &mut cases[index].notes;
            notes.insert(figure.contender.clone(), note.clone());
        }
        let key = (index, figure.contender.clone());
        values.entry(key).or_default().push(figure.value);
    }
    for ((index, contender), mut values) in values {
        cases[index].medians.insert(contender, median(&mut values));
    }
    cases
}

impl Case {
    pub(crate) fn variants<'a>(&'a self, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.medians
            .iter()
            .filter(move |(name, _)| name.split(':').next() == Some(family))
            .map(|(name, value)| (name.as_str(), *value))
    }

    /// The contender of `family` that does what `mine` does: of the same variant, else the fastest.
    pub(crate) fn counterpart<'a>(&'a self, family: &'a str, mine: &str) -> Option<(&'a str, f64)> {
        let variant = match (family, mine.split(':').nth(1)) {
            ("floor", Some("spawn")) => Some("exec-self"),
            (_, variant) => variant,
        };
        let same = self
            .variants(family)
            .find(|(name, _)| variant.is_some() && name.split(':').nth(1) == variant);
        same.or_else(|| {
            let faster = |a: &(&str, f64), b: &(&str, f64)| match self.lower_is_better() {
                true => a.1.total_cmp(&b.1),
                false => b.1.total_cmp(&a.1),
            };
            self.variants(family).min_by(faster)
        })
    }

    fn lower_is_better(&self) -> bool {
        ["us", "ns", "ms"].contains(&self.unit.as_str())
    }

    pub(crate) fn described(&self, contender: Option<(&str, f64)>) -> String {
        let Some((name, value)) = contender else {
            return "–".to_owned();
        };
        let note = self.notes.get(name).filter(|note| *note != "ok");
        let value = note.map_or_else(|| shown(Some(value)), |note| format!("**{note}**"));
        match name.split_once(':') {
            Some((_, variant)) => format!("{value} ({variant})"),
            None => value,
        }
    }
}
