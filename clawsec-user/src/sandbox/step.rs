//! What a single-threaded launcher does, step by step.

/// A step and its error; told, never shown to the tool's readers.
pub(super) type Step<T> = Result<T, String>;

/// Names the step in the error of a system call.
pub(super) fn step<E: std::fmt::Display>(name: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{name}: {error}")
}
