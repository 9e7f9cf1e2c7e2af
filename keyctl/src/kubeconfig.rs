//! Which kubeconfig is used, by kubectl's rules as far as one file goes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Why no kubeconfig can be chosen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    /// kubectl merges them.
    #[error(
        "KUBECONFIG names several files and keyctl reads one: name it with --kubeconfig, or merge \
         them with `kubectl config view --flatten`"
    )]
    Several,
    /// A context is one of a kubeconfig's.
    #[error("--context needs a kubeconfig, and there is none: name one with --kubeconfig")]
    ContextOfNone,
}

/// The one that the flag names, else the one that the variable KUBECONFIG names, else the one in
/// the home folder; `None` in a pod, say, where there is none.
pub(crate) fn choose(
    flag: Option<&Path>,
    variable: Option<&OsStr>,
    home: Option<&Path>,
    is_there: impl Fn(&Path) -> bool,
) -> Result<Option<PathBuf>, Unclear> {
    if let Some(path) = flag {
        return Ok(Some(path.to_owned()));
    }
    let mut named: Vec<PathBuf> = variable
        .map(|variable| std::env::split_paths(variable).collect())
        .unwrap_or_default();
    named.retain(|path| !path.as_os_str().is_empty());
    if named.len() > 1 {
        // As kubectl: those that are not there count as empty.
        named.retain(|path| is_there(path));
    }
    if named.len() > 1 {
        return Err(Unclear::Several);
    }
    let in_home = || home.map(|home| home.join(".kube/config"));
    Ok(named
        .pop()
        .or_else(|| in_home().filter(|path| is_there(path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(flag: Option<&str>, variable: Option<&str>) -> Result<Option<String>, Unclear> {
        let there = ["/a", "/b", "/home/.kube/config"];
        let chosen = choose(
            flag.map(Path::new),
            variable.map(OsStr::new),
            Some(Path::new("/home")),
            |path| there.iter().any(|it| Path::new(it) == path),
        );
        chosen.map(|path| path.map(|path| path.display().to_string()))
    }

    #[test]
    fn the_flag_comes_before_the_variable_and_that_before_the_home_folder() {
        let some = |path: &str| Ok(Some(path.to_owned()));
        assert_eq!(chosen(Some("/gone"), Some("/a")), some("/gone"));
        assert_eq!(chosen(None, Some("/gone")), some("/gone"));
        assert_eq!(chosen(None, Some(":/gone:/b")), some("/b"));
        assert_eq!(chosen(None, Some("")), some("/home/.kube/config"));
        assert_eq!(chosen(None, None), some("/home/.kube/config"));
        assert_eq!(chosen(None, Some("/a:/b")), Err(Unclear::Several));
        assert_eq!(choose(None, None, None, |_| true), Ok(None));
        let home = Some(Path::new("/home"));
        assert_eq!(choose(None, None, home, |_| false), Ok(None));
    }
}
