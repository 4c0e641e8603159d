//! `infra`: the application's CloudFormation templates, and the triggers of KEDA.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use millrace_core::Application;
use millrace_local::{description, say};

use crate::{cli::InfraArgs, stdout::print};

/// The beginning of every rendered template. Other files are not removed.
const RENDERED: &str = "# Rendered from the application's registration";

pub(crate) fn run(application: &Application, args: &InfraArgs) -> anyhow::Result<ExitCode> {
    let stack = description(application);
    let templates = stack.render()?;
    let templates = templates.in_order().map(|each| (each.file_name(), each.body().to_owned()));
    let keda = stack.keda().into_iter().map(|(path, text)| (path.to_owned(), text));
    let rendered: Vec<_> = templates.chain(keda).collect();
    let Some(folder) = &args.folder else {
        let documents = rendered.iter().map(|(path, text)| format!("---\n# {path}\n{text}"));
        print(&documents.collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    };
    let differences = Differences::of(&rendered, folder)?;
    if args.check {
        for line in differences.lines() {
            say(&line);
        }
        let equal = differences.lines().next().is_none();
        return Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    for (path, body) in &differences.outdated {
        let folder = path.parent().unwrap_or(folder);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(path, body).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for path in &differences.left_over {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The differences between a folder and the registration.
#[derive(Debug, Default)]
struct Differences<'a> {
    /// Files that are missing, or have another text.
    outdated: BTreeMap<PathBuf, &'a str>,
    /// Rendered files that nothing is registered for any more.
    left_over: Vec<PathBuf>,
}

impl<'a> Differences<'a> {
    fn of(rendered: &'a [(String, String)], folder: &Path) -> anyhow::Result<Self> {
        let mut differences = Self::default();
        let wanted: BTreeMap<_, _> =
            rendered.iter().map(|(path, text)| (folder.join(path), text.as_str())).collect();
        for (path, body) in &wanted {
            if found(path)?.as_deref() != Some(*body) {
                differences.outdated.insert(path.clone(), body);
            }
        }
        for path in [files(folder)?, files(&folder.join("keda"))?].concat() {
            let is_template = path.extension().is_some_and(|extension| extension == "yaml");
            if is_template
                && !wanted.contains_key(&path)
                && found(&path)?.is_some_and(|text| text.starts_with(RENDERED))
            {
                differences.left_over.push(path);
            }
        }
        Ok(differences)
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let outdated =
            self.outdated.keys().map(|path| format!("{} is not as it is rendered", path.display()));
        let left_over = self.left_over.iter();
        outdated.chain(left_over.map(|path| format!("{} is left over: nothing renders it", path.display())))
    }
}

fn found(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    paths.collect::<io::Result<_>>().with_context(|| format!("cannot read {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(folder: &Path, check: bool) -> ExitCode {
        super::run(&crate::example::application(), &InfraArgs { folder: Some(folder.to_owned()), check })
            .unwrap()
    }

    #[test]
    fn a_folder_is_brought_up_to_date_and_only_then_passes_the_check() {
        let folder = tempfile::tempdir().unwrap();
        let rendered = folder.path().join("infra");
        assert_eq!(run(&rendered, true), ExitCode::FAILURE);
        assert!(!rendered.exists(), "a check writes nothing");

        run(&rendered, false);
        assert_eq!(run(&rendered, true), ExitCode::SUCCESS);
        assert!(rendered.join("data.yaml").exists() && rendered.join("application.yaml").exists());

        let old = [rendered.join("retired-v1.yaml"), rendered.join("keda/scaled-object.yaml")];
        fs::create_dir(rendered.join("keda")).unwrap();
        for path in &old {
            fs::copy(rendered.join("data.yaml"), path).unwrap();
        }
        fs::write(rendered.join("kustomization.yaml"), "# By hand.\n").unwrap();
        assert_eq!(run(&rendered, true), ExitCode::FAILURE);
        run(&rendered, false);
        assert_eq!(run(&rendered, true), ExitCode::SUCCESS);
        assert!(!old.iter().any(|path| path.exists()) && rendered.join("kustomization.yaml").exists());

        fs::write(rendered.join("data.yaml"), "changed").unwrap();
        assert_eq!(run(&rendered, true), ExitCode::FAILURE);
    }
}
