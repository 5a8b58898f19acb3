//! Reads `src/`: imports go down the order that ARCHITECTURE.md states, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A path in the crate: `["store", "session"]`.
type Module = Vec<String>;

#[derive(Default)]
struct File {
    /// The paths in its code.
    paths: Vec<Module>,
    /// The paths of what its `use` lines bring in, for itself or for others.
    names: Vec<Module>,
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
            if reaches(&imports, to, from) {
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
        let names = layer.split(['{', ',', ' ', '}']);
        names.map(str::to_owned).collect()
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
            let path = path.with_extension("");
            let parts = path.iter().skip(1).map(|part| part.to_string_lossy());
            let own = parts.filter(|part| part != "mod" && part != "lib");
            files.insert(own.map(String::from).collect(), parse(&text));
        }
    }
}

fn parse(text: &str) -> File {
    let mut file = File::default();
    let code = text.split("#[cfg(test)]\nmod tests").next();
    let lines = code.unwrap_or_default().lines();
    let mut lines = lines.filter_map(|line| line.split("//").next().map(str::trim));
    let path = |text: &str| text.split("::").map(str::to_owned).collect();
    while let Some(line) = lines.next() {
        let is_use = |before: &str| before.is_empty() || before.starts_with("pub");
        let Some((before, tree)) = line.split_once("use ").filter(|line| is_use(line.0)) else {
            let words = line.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c));
            file.paths
                .extend(words.filter(|word| word.contains("::")).map(path));
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.ends_with(';') {
            tree += lines.next().expect("the end of the `use`");
        }
        for item in expand(tree.trim_end_matches(';')) {
            if before.is_empty() {
                file.paths.push(path(&item));
            }
            file.names.push(path(&item));
        }
    }
    file
}

/// `a::{b, c as d}` is `a::b` and `a::c`.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, inner)) = tree.split_once('{') else {
        return tree.split_whitespace().take(1).map(str::to_owned).collect();
    };
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let mut depth = 0;
    let parts = inner.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let paths = parts.flat_map(expand);
    paths.map(|path| head.trim().to_owned() + &path).collect()
}

/// The file that defines what `at` calls `path`, behind all `pub use`; `None` in other crates.
fn resolve(files: &BTreeMap<Module, File>, at: &[String], path: &[String]) -> Option<Module> {
    let child = |parent: &[String], name: &String| {
        let child = [parent, std::slice::from_ref(name)].concat();
        files.contains_key(&child).then_some(child)
    };
    let (mut here, rest) = match path[0].as_str() {
        "crate" => (vec![], &path[1..]),
        "self" => (at.to_vec(), &path[1..]),
        "super" if path.get(1).is_some_and(|part| part == "super") => {
            return resolve(files, &at[..at.len() - 1], &path[1..]);
        }
        "super" => (at[..at.len() - 1].to_vec(), &path[1..]),
        _ => (child(at, &path[0])?, &path[1..]),
    };
    for (n, part) in rest.iter().enumerate() {
        if let Some(child) = child(&here, part) {
            here = child;
        } else {
            let mut names = files[&here].names.iter();
            let Some(path) = names.find(|path| path.last() == Some(part)) else {
                break;
            };
            let path = [path, &rest[n + 1..]].concat();
            return resolve(files, &here, &path).or(Some(here));
        }
    }
    Some(here)
}
