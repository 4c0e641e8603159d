//! Tables in Markdown, padded so that they can be read as they are.

use std::fmt;

/// A table.
pub(crate) struct Table {
    columns: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One of these columns.
    pub(super) fn new(columns: &[&str]) -> Self {
        let head = columns.iter().map(|name| (*name).to_owned()).collect();
        Self { columns: columns.len(), rows: vec![head] }
    }

    /// Adds a row. Missing cells are empty.
    pub(super) fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.columns, String::new());
        // A bar would end its cell, and a line its row.
        let plain = |cell: String| cell.replace('|', "\\|").replace('\n', " ");
        self.rows.push(cells.into_iter().map(plain).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count().min(60)).max();
        let widths: Vec<_> = (0..self.columns).map(|column| width(column).unwrap_or(0).max(3)).collect();
        let is_number = |text: &str| ["", "–", "fails"].contains(&text) || text.parse::<f64>().is_ok();
        let right: Vec<_> = (0..self.columns)
            .map(|column| self.rows.iter().skip(1).all(|row| is_number(&row[column])))
            .collect();
        for (n, row) in self.rows.iter().enumerate() {
            for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
                if *right { write!(f, "| {cell:>width$} ")? } else { write!(f, "| {cell:<width$} ")? }
            }
            writeln!(f, "|")?;
            if n == 0 {
                for (width, right) in widths.iter().zip(&right) {
                    let dashes = "-".repeat(width + 1);
                    write!(f, "|{dashes}{}", if *right { ':' } else { '-' })?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_and_numbers_stand_to_the_right() {
        let mut table = Table::new(&["who", "n"]);
        table.row(vec!["a|b".to_owned(), "1.5".to_owned()]);
        table.row(vec!["longer".to_owned()]);
        let text = "| who    |   n |\n|--------|----:|\n| a\\|b   | 1.5 |\n| longer |     |\n";
        assert_eq!(table.to_string(), text);
    }
}
