//! The recipes of `COOKBOOK.md`, each put into force as it is printed, with what it is said to do seen from a client.
//!
//! Invariant: each recipe has a check here and each check a recipe, so neither can rot. Non-goal: all that a feature can do;
//! that is for the tests of the feature.

mod checks;
mod kitchen;

use std::time::Duration;

use kitchen::Kitchen;

/// For a change of manifests to reach sidecars.
const CONVERGE: Duration = Duration::from_secs(30);

/// A recipe as it is printed.
struct Recipe {
    title: String,
    manifest: String,
}

#[test]
fn each_recipe_does_what_it_says() {
    let recipes = recipes();
    let titles: Vec<_> = recipes.iter().map(|recipe| recipe.title.as_str()).collect();
    let checked: Vec<_> = checks::ALL.iter().map(|(title, _)| *title).collect();
    assert_eq!(titles, checked, "recipes and checks, in the order of the page");
    let kitchen = Kitchen::start();
    for (recipe, (title, check)) in recipes.iter().zip(checks::ALL) {
        println!("{title}");
        kitchen.until_plain();
        kitchen.mesh.manifests.write("recipe", &kitchen.at_home(&recipe.manifest));
        check(&kitchen);
        kitchen.mesh.manifests.remove("recipe");
    }
    kitchen.until_plain();
}

/// Those of the page.
fn recipes() -> Vec<Recipe> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../COOKBOOK.md")).expect("the cookbook");
    let parts = page.split("\n## ").skip(1);
    let recipe = |part: &str| {
        let (title, text) = part.split_once('\n').expect("a title");
        let (_, rest) = text.split_once("```yaml\n").unwrap_or_else(|| panic!("{title}: no manifest"));
        let (manifest, _) = rest.split_once("```").unwrap_or_else(|| panic!("{title}: the manifest has no end"));
        Recipe { title: title.to_owned(), manifest: manifest.to_owned() }
    };
    parts.map(recipe).collect()
}
