//! Annotations to a record: what a peer publishes, read again with each change of its Node.

use std::hint::black_box;

use criterion::Criterion;
use podwire_core::annotations;

use crate::plan::node;

pub(super) fn benches(criterion: &mut Criterion) {
    let annotations = node(7).annotations;
    criterion.bench_function("record/parse", |bencher| {
        bencher.iter(|| annotations::parse(black_box(&annotations)));
    });
}
