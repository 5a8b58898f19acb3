//! Reads `src/`: imports go down the order that ARCHITECTURE.md states, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A folder whose circles are not judged yet.
const EXEMPT: &str = "jobs";

/// A path in the crate: `["store", "session"]`.
type Module = Vec<String>;

#[derive(Default)]
struct File {
    /// The names that its `use` lines bring in, and their paths.
    names: BTreeMap<String, Module>,
    /// The paths that it uses itself, which a `pub use` does not.
    paths: Vec<Module>,
}

#[test]
fn imports_go_down_and_never_in_a_circle() {
    let mut files = BTreeMap::new();
    read(Path::new("src"), &mut files);
    let mut imports = BTreeMap::new();
    for (module, file) in files.iter().filter(|(module, _)| !module.is_empty()) {
        let found = file.paths.iter();
        let found = found.filter_map(|path| resolve(&files, module, path));
        let others = found.filter(|to| !to.is_empty() && to != module);
        imports.insert(module.clone(), others.collect::<BTreeSet<_>>());
    }
    let layers = layers();
    let place = |module: &Module| {
        let place = layers.iter().position(|layer| layer.contains(&module[0]));
        place.unwrap_or_else(|| panic!("the order lacks {}", module[0]))
    };
    let mut wrong = Vec::new();
    for (from, all) in &imports {
        for to in all {
            let arrow = format!("{} → {}", from.join("::"), to.join("::"));
            if from[0] != to[0] && place(from) >= place(to) {
                wrong.push(format!("not downwards: {arrow}"));
            }
            if from[0] != EXEMPT && reaches(&imports, to, from) {
                wrong.push(format!("in a circle: {arrow}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whether `from` imports `to`, be it through others.
fn reaches(imports: &BTreeMap<Module, BTreeSet<Module>>, from: &Module, to: &Module) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        if seen.insert(module) {
            next.extend(imports.get(module).into_iter().flatten());
        }
    }
    seen.contains(to)
}

/// ARCHITECTURE.md's order, from the top down.
fn layers() -> Vec<Vec<String>> {
    let text = fs::read_to_string("ARCHITECTURE.md").expect("the document");
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with("Imports point one way"));
    let order = line.and_then(|line| line.split('`').nth(1));
    let names = |layer: &str| {
        layer
            .split(['{', ',', ' ', '}'])
            .map(str::to_owned)
            .collect()
    };
    order.expect("the order").split('→').map(names).collect()
}

fn read(folder: &Path, files: &mut BTreeMap<Module, File>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let parts = path.with_extension("");
            let parts = parts.iter().skip(1).map(|part| part.to_string_lossy());
            let module: Module = parts
                .map(String::from)
                .filter(|part| part != "mod")
                .collect();
            // lib.rs gives names to others; nothing below imports it for more.
            files.insert(
                if module == ["lib"] { vec![] } else { module },
                parse(&text),
            );
        }
    }
}

fn parse(text: &str) -> File {
    let mut file = File::default();
    let code = text
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let path = |text: &str| -> Module {
        text.split("::")
            .map(|part| part.trim().to_owned())
            .collect()
    };
    let mut open = String::new();
    for line in code.lines().filter_map(|line| line.split("//").next()) {
        let visibility = line.trim().split("use ").next().unwrap_or_default();
        let is_use = line.contains("use ")
            && ["", "pub ", "pub(crate) ", "pub(super) "].contains(&visibility);
        if open.is_empty() && !is_use {
            let words = line.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
            file.paths
                .extend(words.filter(|word| word.contains("::")).map(path));
            continue;
        }
        open.push_str(line.trim());
        let Some((visibility, tree)) = open
            .strip_suffix(';')
            .and_then(|all| all.split_once("use "))
        else {
            continue;
        };
        for item in expand(tree) {
            let (item, name) = match item.split_once(" as ") {
                Some((item, name)) => (path(item), name.to_owned()),
                None => (
                    path(&item),
                    item.rsplit("::").next().unwrap_or_default().to_owned(),
                ),
            };
            if visibility.is_empty() {
                file.paths.push(item.clone());
            }
            file.names.insert(name, item);
        }
        open.clear();
    }
    file
}

/// `a::{b, c}` is `a::b` and `a::c`.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, inner)) = tree.split_once('{') else {
        return vec![tree.trim().to_owned()];
    };
    let mut depth = 0;
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let parts = inner.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let parts = parts
        .filter(|part| !part.trim().is_empty())
        .flat_map(expand);
    parts.map(|part| head.trim().to_owned() + &part).collect()
}

/// The file where what `at` calls `path` is defined, behind all `pub use`.
fn resolve(files: &BTreeMap<Module, File>, at: &[String], path: &[String]) -> Option<Module> {
    let child = |parent: &[String], name: &String| {
        let child = [parent, &[name.clone()]].concat();
        files.contains_key(&child).then_some(child)
    };
    let supers = path.iter().take_while(|part| *part == "super").count();
    let (mut here, rest) = match path[0].as_str() {
        "crate" => (vec![], &path[1..]),
        "self" => (at.to_vec(), &path[1..]),
        "super" => (at[..at.len() - supers].to_vec(), &path[supers..]),
        _ => (at.to_vec(), child(at, &path[0]).map(|_| path)?),
    };
    for (n, part) in rest.iter().enumerate() {
        if let Some(child) = child(&here, part) {
            here = child;
        } else if let Some(path) = files[&here].names.get(part) {
            let path = [path, &rest[n + 1..]].concat();
            return resolve(files, &here, &path).or(Some(here));
        } else {
            break;
        }
    }
    Some(here)
}
