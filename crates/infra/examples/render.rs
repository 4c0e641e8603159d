//! Writes the templates of the shop into a folder: `cargo run -p millrace-es-infra --example render -- FOLDER`.

use std::{env, fs, path::PathBuf};

use millrace_infra::{Index, ProjectionResources, RowWrites, Stack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("name a folder")?);
    let shop = Stack::new("shop")
        .aggregate("user")
        .aggregate("order")
        .projection(
            ProjectionResources::new("user-profiles", 1)
                .source("user")
                .index(Index::new("by-email", "ByEmailKey")),
        )
        .projection(
            ProjectionResources::new("order-summaries", 1)
                .source("order")
                .index(Index::new("by-user", "ByUserKey").sorted_by("ByUserSort"))
                .index(Index::new("by-status", "ByStatusKey").sorted_by("ByStatusSort")),
        )
        .projection(
            ProjectionResources::new("customer-totals", 1).source("order").writing(RowWrites::Aggregating),
        );
    fs::create_dir_all(&folder)?;
    for template in shop.render()?.in_order() {
        fs::write(folder.join(template.file_name()), template.body())?;
    }
    Ok(())
}
