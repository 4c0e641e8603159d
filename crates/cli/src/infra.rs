//! `infra`: the application's CloudFormation templates.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use millrace_core::Application;
use millrace_infra::Template;
use millrace_local::{description, say};

use crate::{cli::InfraArgs, stdout::print};

/// The beginning of every rendered template. Other files are not removed.
const RENDERED: &str = "# Rendered from the application's registration";

pub(crate) fn run(application: &Application, args: &InfraArgs) -> anyhow::Result<ExitCode> {
    let templates = description(application).render()?;
    let Some(folder) = &args.folder else {
        let documents =
            templates.in_order().map(|each| format!("---\n# {}\n{}", each.file_name(), each.body()));
        print(&documents.collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    };
    let differences = Differences::of(templates.in_order(), folder)?;
    if args.check {
        for line in differences.lines() {
            say(&line);
        }
        let equal = differences.lines().next().is_none();
        return Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (path, body) in &differences.outdated {
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
    /// Templates that are missing, or have another text.
    outdated: BTreeMap<PathBuf, &'a str>,
    /// Rendered templates that nothing is registered for any more.
    left_over: Vec<PathBuf>,
}

impl<'a> Differences<'a> {
    fn of(templates: impl Iterator<Item = &'a Template>, folder: &Path) -> anyhow::Result<Self> {
        let mut differences = Self::default();
        let wanted: BTreeMap<_, _> =
            templates.map(|template| (folder.join(template.file_name()), template.body())).collect();
        for (path, body) in &wanted {
            if found(path)?.as_deref() != Some(*body) {
                differences.outdated.insert(path.clone(), body);
            }
        }
        for path in files(folder)? {
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

        let old = rendered.join("retired-v1.yaml");
        fs::copy(rendered.join("data.yaml"), &old).unwrap();
        fs::write(rendered.join("kustomization.yaml"), "# By hand.\n").unwrap();
        assert_eq!(run(&rendered, true), ExitCode::FAILURE);
        run(&rendered, false);
        assert_eq!(run(&rendered, true), ExitCode::SUCCESS);
        assert!(!old.exists() && rendered.join("kustomization.yaml").exists());

        fs::write(rendered.join("data.yaml"), "changed").unwrap();
        assert_eq!(run(&rendered, true), ExitCode::FAILURE);
    }
}
