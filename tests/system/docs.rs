//! Documentation that can't rot: what it names is there.

use std::path::{Path, PathBuf};

use system_tests::harness::repository;

/// Endings that make a word in backticks a file's name.
const FILE_ENDINGS: [&str; 9] = [".rs", ".md", ".toml", ".sql", ".yaml", ".json", ".sh", ".proto", ".py"];

fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text between single backticks, code blocks left out.
fn quoted(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in text.split("```").enumerate() {
        if number % 2 == 0 {
            words.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    words
}

/// The lines of fenced code blocks.
fn code_lines(text: &str) -> Vec<String> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.flat_map(|block| block.lines().skip(1).map(str::to_owned)).collect()
}

/// Whether a word in backticks is a path in this repository: no spaces, no variables, not an
/// endpoint, and either with a slash or with a file's ending.
fn is_path(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    let named_file = FILE_ENDINGS.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending));
    word.bytes().all(plain) && !word.starts_with('/') && (word.contains('/') || named_file)
}

#[test]
fn tells_paths_from_other_words() {
    for path in ["filter/src/host.rs", "filter/", "Cargo.toml", ".ci/run", "ARCHITECTURE.md"] {
        assert!(is_path(path), "{path}");
    }
    for other in
        ["/v1/holds", "GET /healthz", "held + spent <= limit", "i64", "org", "a/${B}", "x-budget-org", ".rs"]
    {
        assert!(!is_path(other), "{other}");
    }
    assert_eq!(quoted("a `b` c\n```sh\n`d`\n```\n`e`"), ["b", "e"]);
    assert_eq!(code_lines("a\n```sh\nmake x\n```\nb"), ["make x"]);
}

#[test]
fn every_path_in_the_architecture_page_exists() {
    let paths: Vec<String> =
        quoted(&read("ARCHITECTURE.md")).into_iter().filter(|word| is_path(word)).collect();
    assert!(paths.len() >= 10, "the page names files; found only {paths:?}");
    let missing: Vec<_> = paths.iter().filter(|path| !repository().join(path).exists()).collect();
    assert!(missing.is_empty(), "named in ARCHITECTURE.md, but not there: {missing:?}");
}

#[test]
fn every_make_target_in_the_readme_exists() {
    let makefile = read("Makefile");
    let is_target = |target: &str| makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    let readme = read("README.md");
    let mut named = Vec::new();
    for line in code_lines(&readme).into_iter().chain(quoted(&readme)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let make = words.iter().position(|word| *word == "make");
        let in_place = make.filter(|at| words[..*at].iter().all(|word| word.contains('=')));
        if let Some(target) = in_place.and_then(|at| words.get(at + 1)) {
            named.push((*target).to_owned());
        }
    }
    for needed in ["demo", "test"] {
        assert!(named.iter().any(|target| target == needed), "the quick start names `make {needed}`");
    }
    let missing: Vec<_> = named.iter().filter(|target| !is_target(target)).collect();
    assert!(missing.is_empty(), "named in README.md, but no target of the Makefile: {missing:?}");
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut pages = vec![repository().join("README.md"), repository().join("ARCHITECTURE.md")];
    pages.extend(markdown_below(&repository().join("docs")));
    let mut broken = Vec::new();
    for page in &pages {
        let text =
            std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let outside = link.contains("://") || file.is_empty();
            if !outside && !page.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn markdown_below(folder: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            pages.extend(markdown_below(&path));
        } else if path.extension().is_some_and(|ending| ending == "md") {
            pages.push(path);
        }
    }
    pages
}
