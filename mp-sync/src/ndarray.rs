//! The elements of an array in as many dimensions as they have.

use bytemuck::Pod;
use ndarray::{ArrayView, ArrayViewMut, Dimension, ShapeError, StrideShape};

use crate::ArrayGuard;

impl<T: Pod> ArrayGuard<'_, T> {
    /// The elements as an array of `shape`, row by row, as long as the lock is held.
    ///
    /// # Errors
    ///
    /// There are fewer elements than the shape has.
    ///
    /// # Examples
    ///
    /// ```
    /// let cells = mp_sync::Array::from_slice(&[1, 2, 3, 4, 5, 6])?;
    /// let guard = cells.lock().unwrap();
    /// let rows = guard.view((2, 3)).unwrap();
    /// assert_eq!(rows[[1, 0]], 4);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn view<D: Dimension>(
        &self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayView<'_, T, D>, ShapeError> {
        ArrayView::from_shape(shape, self)
    }

    /// As [`view`](Self::view), to be written.
    ///
    /// # Errors
    ///
    /// As [`view`](Self::view).
    ///
    /// # Examples
    ///
    /// ```
    /// let cells = mp_sync::Array::from_slice(&[1, 2, 3, 4, 5, 6])?;
    /// let mut guard = cells.lock().unwrap();
    /// guard.view_mut((3, 2)).unwrap().column_mut(1).fill(0);
    /// assert_eq!(*guard, [1, 0, 3, 0, 5, 0]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn view_mut<D: Dimension>(
        &mut self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayViewMut<'_, T, D>, ShapeError> {
        ArrayViewMut::from_shape(shape, self)
    }
}
