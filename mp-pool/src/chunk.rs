//! How many tasks travel together.

/// Python's default: four chunks for each worker, rounded up.
pub(crate) fn default_size(tasks: usize, workers: usize) -> usize {
    tasks.div_ceil(workers.max(1).saturating_mul(4)).max(1)
}

#[cfg(test)]
mod tests {
    use super::default_size;

    #[test]
    fn default_is_that_of_python() {
        let sizes = [1, 11, 12, 13, 24, 25, 100].map(|tasks| default_size(tasks, 3));
        assert_eq!(sizes, [1, 1, 1, 2, 2, 3, 9]);
        assert_eq!(default_size(0, 3), 1);
    }
}
