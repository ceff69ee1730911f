//! What a group can be asked to start: specs, and texts that stand for specs.

use crate::spec::{Spec, SpecError};

/// What stands for any number of specs: a [`Spec`], its text (`4*local` is four), or a list of either.
///
/// ```
/// use farcall::{IntoSpecs, Spec};
///
/// assert_eq!("2*local".into_specs()?, [Spec::local(), Spec::local()]);
/// assert_eq!(["local", "ssh://web1"].into_specs()?, [Spec::local(), Spec::ssh("web1")]);
/// assert_eq!(vec![Spec::local(); 3].into_specs()?.len(), 3);
/// # Ok::<(), farcall::SpecError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not stand for specs",
    note = "a `Spec`, its text, and arrays, slices and `Vec`s of these do"
)]
pub trait IntoSpecs {
    /// The specs, in order.
    ///
    /// # Errors
    /// What is wrong with a text.
    fn into_specs(self) -> Result<Vec<Spec>, SpecError>;
}

impl IntoSpecs for Spec {
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        Ok(vec![self])
    }
}

impl IntoSpecs for &Spec {
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        Ok(vec![self.clone()])
    }
}

impl IntoSpecs for &str {
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        Spec::parse_all(self)
    }
}

impl IntoSpecs for String {
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        Spec::parse_all(&self)
    }
}

impl IntoSpecs for &String {
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        Spec::parse_all(self)
    }
}

impl<T: IntoSpecs, const N: usize> IntoSpecs for [T; N] {
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        all(self)
    }
}

impl<T: IntoSpecs> IntoSpecs for Vec<T> {
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        all(self)
    }
}

impl<'a, T> IntoSpecs for &'a [T]
where
    &'a T: IntoSpecs,
{
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        all(self)
    }
}

impl<'a, T> IntoSpecs for &'a Vec<T>
where
    &'a T: IntoSpecs,
{
    fn into_specs(self) -> Result<Vec<Spec>, SpecError> {
        all(self)
    }
}

fn all<T: IntoSpecs>(list: impl IntoIterator<Item = T>) -> Result<Vec<Spec>, SpecError> {
    let mut specs = Vec::new();
    for item in list {
        specs.extend(item.into_specs()?);
    }
    Ok(specs)
}
