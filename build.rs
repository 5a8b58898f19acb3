//! Compresses the files of the page and the API's document, once, so that the program holds and sends them small.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write as _};
use std::path::Path;

use flate2::{Compression, GzBuilder};

const PAGE: &str = "src/page";
const DOCUMENT: &str = "src/api/openapi.json";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={PAGE}");
    println!("cargo::rerun-if-changed={DOCUMENT}");
    let mut files = Vec::new();
    for entry in fs::read_dir(PAGE)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        if [".html", ".css", ".js", ".svg"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            files.push((name, fs::read_to_string(&path)?));
        }
    }
    files.sort();
    // One name for all that belongs together: a module imports the others of its own version.
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let version = format!("{:016x}", hasher.finish());
    for (_, text) in &mut files {
        *text = text.replace("{{assets}}", &format!("/assets/{version}"));
        *text = text.replace("{{version}}", &variable("CARGO_PKG_VERSION"));
    }
    let own = format!("\"version\": \"{}\"", variable("CARGO_PKG_VERSION"));
    let document = fs::read_to_string(DOCUMENT)?.replacen("\"version\": \"0.0.0\"", &own, 1);
    files.push(("openapi.json".to_owned(), document));
    write(&version, &files)
}

/// Writes each file, compressed, and the table of them all.
fn write(version: &str, files: &[(String, String)]) -> io::Result<()> {
    let folder = variable("OUT_DIR");
    let mut table =
        format!("const VERSION: &str = {version:?};\nconst FILES: &[(&str, &[u8])] = &[\n");
    for (name, text) in files {
        let path = Path::new(&folder).join(format!("{name}.gz"));
        // Without a time, so that the same files give the same program.
        let file = fs::File::create(&path)?;
        let mut gzip = GzBuilder::new().mtime(0).write(file, Compression::best());
        gzip.write_all(text.as_bytes())?;
        gzip.finish()?;
        let _ = writeln!(table, "    ({name:?}, include_bytes!({path:?})),");
    }
    table.push_str("];\n");
    fs::write(Path::new(&folder).join("assets.rs"), table)
}

/// What Cargo tells a build script.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}
