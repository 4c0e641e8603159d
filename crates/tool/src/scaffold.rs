//! The files of applications, aggregates and projections, from templates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{change::Changes, name::Name};

/// The file with the registration of an application.
const REGISTRATION: &str = "src/lib.rs";

macro_rules! templates {
    ($folder:literal: $($path:literal <- $file:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../templates/", $folder, "/", $file)))),+]
    };
}

/// The files of an application, but for those of its aggregate. Paths are templates, too.
const APP: &[(&str, &str)] = templates! { "app":
    "Cargo.toml" <- "Cargo.toml.in",
    "README.md" <- "README.md",
    ".gitignore" <- "gitignore",
    "rustfmt.toml" <- "rustfmt.toml",
    "Dockerfile" <- "Dockerfile",
    "build.rs" <- "build.rs",
    "src/lib.rs" <- "lib.rs",
    "src/contracts.rs" <- "contracts.rs",
    "src/main.rs" <- "main.rs",
    "src/bin/command-service.rs" <- "command-service.rs",
    "src/bin/query-service.rs" <- "query-service.rs",
    "src/bin/projector.rs" <- "projector.rs",
    "k8s/deployables.yaml" <- "deployables.yaml",
    "k8s/kustomization.yaml" <- "kustomization.yaml",
};

/// The files of an aggregate.
const AGGREGATE: &[(&str, &str)] = templates! { "aggregate":
    "proto/{{app_snake}}/command/v1/{{agg_snake}}_command_service.proto" <- "command.proto",
    "proto/{{app_snake}}/event/v1/{{agg_snake}}_events.proto" <- "events.proto",
    "proto/{{app_snake}}/query/v1/{{agg_snake}}_query_service.proto" <- "query.proto",
    "src/{{agg_snake}}.rs" <- "aggregate.rs",
    "src/{{agg_snake}}/contract.rs" <- "contract.rs",
    "src/{{agg_snake}}/summary.rs" <- "summary.rs",
    "src/{{agg_snake}}/commands.rs" <- "commands.rs",
    "src/{{agg_snake}}/queries.rs" <- "queries.rs",
};

/// The file of a projection.
const PROJECTION: &[(&str, &str)] = templates! { "projection":
    "src/{{agg_snake}}/{{projection_snake}}.rs" <- "projection.rs",
};

/// Values of the placeholders in templates.
struct Values(Vec<(String, String)>);

impl Values {
    fn of_app(app: &Name) -> Self {
        Self(vec![
            ("{{app}}".to_owned(), app.to_string()),
            ("{{app_snake}}".to_owned(), app.snake()),
            ("{{App}}".to_owned(), app.pascal()),
        ])
    }

    fn with_aggregate(mut self, aggregate: &Name) -> Self {
        self.0.extend([
            ("{{agg}}".to_owned(), aggregate.to_string()),
            ("{{agg_snake}}".to_owned(), aggregate.snake()),
            ("{{Agg}}".to_owned(), aggregate.pascal()),
            ("{{AGG}}".to_owned(), aggregate.snake().to_ascii_uppercase()),
        ]);
        self
    }

    fn with(mut self, placeholder: &str, value: String) -> Self {
        self.0.push((format!("{{{{{placeholder}}}}}"), value));
        self
    }

    fn fill(&self, template: &str) -> String {
        self.0.iter().fold(template.to_owned(), |text, (placeholder, value)| text.replace(placeholder, value))
    }

    fn add(&self, changes: &mut Changes, templates: &[(&str, &str)]) {
        for (path, template) in templates {
            changes.add(self.fill(path), self.fill(template));
        }
    }
}

/// `millrace new app`, in a folder.
pub(crate) fn app(
    folder: &Path,
    name: &str,
    aggregate: &str,
    millrace: Option<&Path>,
) -> anyhow::Result<String> {
    let app = Name::parse(name)?;
    let aggregate = aggregate_of(&app, aggregate)?;
    let root = folder.join(app.to_string());
    if root.exists() {
        bail!("{} exists already: nothing was written", root.display());
    }
    let own = own_checkout();
    let checkout = millrace.or_else(|| dependencies(Some(own)).is_ok().then_some(own));
    let values = Values::of_app(&app)
        .with_aggregate(&aggregate)
        .with("dependencies", dependencies(checkout)?)
        .with("context", checkout.map(|_| " --build-context millrace=FOLDER".to_owned()).unwrap_or_default())
        .with("copy", checkout.map(copy).transpose()?.unwrap_or_default());
    let mut changes = Changes::default();
    values.add(&mut changes, APP);
    values.add(&mut changes, AGGREGATE);
    let written = changes.write(&root)?;
    Ok(format!("{}\n\ncd {app} && cargo run -- demo", written.join("\n")))
}

/// `millrace new aggregate`, in the folder of an application.
pub(crate) fn aggregate(root: &Path, name: &str) -> anyhow::Result<String> {
    let app = application_in(root)?;
    let aggregate = aggregate_of(&app, name)?;
    let values = Values::of_app(&app).with_aggregate(&aggregate);
    let mut changes = Changes::default();
    values.add(&mut changes, AGGREGATE);
    for (anchor, lines) in [
        ("// more modules", "pub mod {{agg_snake}};"),
        ("// more aggregates and projections", "        .aggregate::<{{agg_snake}}::{{Agg}}>()"),
        (
            "// more aggregates and projections",
            "        .projection::<{{agg_snake}}::summary::{{Agg}}Summary>()",
        ),
        ("// more command services", "            {{agg_snake}}::commands::service(commands)?,"),
        ("// more query services", "            {{agg_snake}}::queries::service(queries)?,"),
    ] {
        changes.insert(root, REGISTRATION, anchor, &values.fill(lines))?;
    }
    Ok(changes.write(root)?.join("\n"))
}

/// `millrace new projection`, in the folder of an application.
pub(crate) fn projection(root: &Path, name: &str, aggregate: &str) -> anyhow::Result<String> {
    let (projection, aggregate) = (Name::parse(name)?, Name::parse(aggregate)?);
    let app = application_in(root)?;
    let source = format!("src/{}.rs", aggregate.snake());
    if !root.join(&source).exists() {
        bail!("there is no aggregate `{aggregate}`: {source} does not exist");
    }
    let is_imported = |end: &str| projection.pascal() == aggregate.pascal() + end;
    if ["", "Event", "Id"].into_iter().any(is_imported) {
        bail!("`{projection}` is a name of the aggregate `{aggregate}`'s own code: choose another name");
    }
    if let Some(file) = registered(&root.join("src"), &projection)? {
        bail!("{} has a projection `{projection}` already: choose another name", file.display());
    }
    let values = Values::of_app(&app)
        .with_aggregate(&aggregate)
        .with("projection", projection.to_string())
        .with("projection_snake", projection.snake())
        .with("Projection", projection.pascal());
    let mut changes = Changes::default();
    values.add(&mut changes, PROJECTION);
    changes.insert(root, source, "pub mod summary;", &values.fill("pub mod {{projection_snake}};"))?;
    let registered = "        .projection::<{{agg_snake}}::{{projection_snake}}::{{Projection}}>()";
    changes.insert(root, REGISTRATION, "// more aggregates and projections", &values.fill(registered))?;
    Ok(changes.write(root)?.join("\n"))
}

/// The file below a folder that has a projection of this name.
fn registered(folder: &Path, projection: &Name) -> anyhow::Result<Option<PathBuf>> {
    let failed = || format!("{} cannot be read", folder.display());
    for entry in fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.is_dir() {
            if let Some(found) = registered(&path, projection)? {
                return Ok(Some(found));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            if text.contains(&format!("ProjectionName::new(\"{projection}\"")) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// The name of an aggregate of an application. Two modules must not have the same name.
fn aggregate_of(app: &Name, name: &str) -> anyhow::Result<Name> {
    let aggregate = Name::parse(name)?;
    if aggregate == *app {
        bail!("the application and its aggregate are both named `{app}`: give the aggregate another name");
    }
    Ok(aggregate)
}

/// The name of the application in a folder.
fn application_in(root: &Path) -> anyhow::Result<Name> {
    let manifest = root.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| {
        format!("{} cannot be read: call this in the folder of an application", manifest.display())
    })?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let name = name.with_context(|| format!("{} names no package", manifest.display()))?;
    Ok(Name::parse(name)?)
}

/// The checkout that this program was built from. The packages are not published: without it, an application cannot be built.
fn own_checkout() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

/// The lines of `Cargo.toml` for Millrace: of a checkout, or of the version of this program.
fn dependencies(checkout: Option<&Path>) -> anyhow::Result<String> {
    let source = |folder: &str| -> anyhow::Result<String> {
        match checkout {
            None => Ok(format!("version = \"{}\"", env!("CARGO_PKG_VERSION"))),
            Some(checkout) => {
                let folder = checkout.join(folder);
                let found = folder.canonicalize().ok().filter(|found| found.join("Cargo.toml").exists());
                let found =
                    found.with_context(|| format!("{} is no package of Millrace", folder.display()))?;
                Ok(format!("path = {:?}", found.to_string_lossy()))
            }
        }
    };
    let line = |name: &str, folder: &str| -> anyhow::Result<String> {
        Ok(format!("millrace-{name} = {{ package = \"millrace-es-{name}\", {} }}\n", source(folder)?))
    };
    let mut lines = String::new();
    for name in ["cli", "command", "core", "projection", "query"] {
        lines += &line(name, &format!("crates/{name}"))?;
    }
    lines += &line("proto", "proto")?;
    lines += &format!("\n[dev-dependencies]\n{}", line("testing", "crates/testing")?);
    lines += &format!("\n[build-dependencies]\n{}", line("build", "crates/build")?);
    Ok(lines)
}

/// The lines of `Dockerfile` that bring a checkout to the place where `Cargo.toml` looks for it.
fn copy(checkout: &Path) -> anyhow::Result<String> {
    let place = checkout.canonicalize()?;
    Ok(format!(
        "# The checkout of Millrace that Cargo.toml names: FOLDER above. A dependency on a version needs none.\n\
         COPY --from=millrace [\".\", {:?}]\n",
        place.to_string_lossy()
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// All files below a folder.
    fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let texts = files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap()));
        texts.chain(folders.iter().flat_map(|folder| self::files(folder))).collect()
    }

    #[test]
    fn an_aggregate_is_eight_files_and_one_registration() {
        let folder = tempfile::tempdir().unwrap();
        app(folder.path(), "gift-shop", "task", None).unwrap();
        let root = folder.path().join("gift-shop");
        let before = files(&root);
        aggregate(&root, "gift-card").unwrap();
        let after = files(&root);
        let changed = before.iter().filter(|(path, text)| after[*path] != **text).map(|(path, _)| path);
        assert_eq!(changed.collect::<Vec<_>>(), [&root.join(REGISTRATION)]);
        let new: Vec<_> = after.iter().filter(|(path, _)| !before.contains_key(*path)).collect();
        assert!(new.len() <= 8, "{new:?}");
        let lines = |(_, text): &(&PathBuf, &String)| text.lines().count();
        let is_adapter = |(path, _): &&(&PathBuf, &String)| {
            path.ends_with("gift_card/commands.rs") || path.ends_with("gift_card/queries.rs")
        };
        let (all, adapters): (usize, usize) =
            (new.iter().map(lines).sum(), new.iter().filter(is_adapter).map(lines).sum());
        assert!(all <= 900 && adapters <= 150, "{all} lines, of these {adapters} of adapters");

        projection(&root, "closed-cards", "gift-card").unwrap();
        assert_eq!(files(&root).len(), after.len() + 1);
        let left = files(&root).into_iter().find(|(_, text)| text.contains("{{"));
        assert_eq!(left, None, "every placeholder has a value");
    }

    /// The CamelCase names of `use` statements.
    fn imported(text: &str) -> impl Iterator<Item = &str> {
        let used = text.split(';').filter_map(|statement| {
            let (before, used) = statement.rsplit_once("use ")?;
            before.lines().next_back().is_none_or(|line| matches!(line.trim(), "" | "pub")).then_some(used)
        });
        let words = used.flat_map(|used| used.split(|c: char| !c.is_alphanumeric() && !"_#".contains(c)));
        words.filter(|word| word.starts_with(char::is_uppercase) && word.contains(char::is_lowercase))
    }

    #[test]
    fn no_name_makes_one_that_its_template_has_already() {
        let mut count = 0;
        for (path, template) in [APP, AGGREGATE, PROJECTION].concat() {
            let text = template.replace("{{Agg}}", "#").replace("{{Projection}}", "#");
            let endings =
                text.split('#').map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap());
            let endings: BTreeSet<_> = endings.skip(1).chain([""]).collect();
            let types = imported(&text)
                .flat_map(|name| endings.iter().filter_map(|ending| name.strip_suffix(ending)));
            let fields =
                text.lines().filter_map(|line| Some(line.split_once("_id = ")?.0.rsplit_once(' ')?.1));
            for name in types.chain(fields).filter(|name| !matches!(*name, "" | "{{agg_snake}}")) {
                let kebab = name.chars().map(|c| match c {
                    '_' => "-".to_owned(),
                    c if c.is_uppercase() => format!("-{}", c.to_lowercase()),
                    c => c.to_string(),
                });
                let kebab = kebab.collect::<String>();
                let refused = Name::parse(kebab.trim_start_matches('-'));
                assert!(refused.is_err(), "{refused:?} makes a name that {path} has already, of {name}");
                count += 1;
            }
        }
        assert!(count > 60, "{count} names were found");
    }

    #[test]
    fn an_application_depends_on_the_checkout_that_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let checkout = own_checkout().canonicalize().unwrap();
        for (name, millrace) in [("gift-shop", None), ("card-shop", Some(checkout.as_path()))] {
            app(folder.path(), name, "task", millrace).unwrap();
            for (file, line) in [
                ("Cargo.toml", format!("path = {:?}", checkout.join("crates/core"))),
                ("Dockerfile", format!("COPY --from=millrace [\".\", {checkout:?}]\n")),
            ] {
                let text = fs::read_to_string(folder.path().join(name).join(file)).unwrap();
                assert!(text.contains(&line), "{line} is not in {text}");
            }
        }
        let published = dependencies(None).unwrap();
        assert!(
            published.contains("millrace-es-core\", version = ") && !published.contains("path"),
            "{published}"
        );
    }

    #[test]
    fn each_image_of_the_manifests_can_be_built() {
        let text = |path| APP.iter().find(|(at, _)| *at == path).unwrap().1;
        let images = text("k8s/deployables.yaml")
            .lines()
            .filter_map(|line| line.trim().strip_prefix("image: {{app}}/"));
        let targets = text("Dockerfile").lines().filter_map(|line| line.strip_prefix("FROM base AS "));
        assert_eq!(images.clone().count(), 3);
        assert!(images.eq(targets));
    }

    #[test]
    fn bad_input_is_refused_and_nothing_written() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        app(here, "gift-shop", "task", None).unwrap();
        let root = here.join("gift-shop");
        let before = files(here);
        for (refused, reason) in [
            (app(here, "gift-shop", "task", None), "exists already"),
            (app(here, "Gift", "task", None), "has to be"),
            (app(here, "match", "task", None), "Rust keeps for itself"),
            (app(here, "other", "1st", None), "has to be"),
            (app(here, "other", "card2", None), "has to be"),
            (app(here, "other", "bin", None), "something else"),
            (app(here, "other", "self", None), "Rust keeps for itself"),
            (app(here, "other", "string", None), "something else"),
            (app(here, "other", "other", None), "another name"),
            (app(here, "other", "task", Some(here)), "is no package of Millrace"),
            (aggregate(&root, "task"), "exists already"),
            (aggregate(&root, "gift-shop"), "another name"),
            (aggregate(&root, "fn"), "Rust keeps for itself"),
            (aggregate(here, "card"), "in the folder of an application"),
            (projection(&root, "summary-two", "card"), "there is no aggregate `card`"),
            (projection(&root, "a b", "task"), "has to be"),
            (projection(&root, "task", "task"), "own code"),
            (projection(&root, "task-event", "task"), "own code"),
            (projection(&root, "task-summaries", "task"), "already"),
            (projection(here, "closed-tasks", "task"), "in the folder of an application"),
        ] {
            let refused = refused.unwrap_err();
            assert!(format!("{refused:#}").contains(reason), "{refused:#} instead of {reason}");
        }
        assert_eq!(files(here), before);
    }
}
