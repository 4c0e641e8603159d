//! `#[derive(Row)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Data, DeriveInput, Error, Field, Fields, Ident, LitStr, Path, Result, Type, ext::IdentExt as _,
    meta::ParseNestedMeta, parse_quote, spanned::Spanned as _,
};

/// The options in a struct's attributes `#[row(…)]`.
#[derive(Default)]
struct Options {
    resource: Option<LitStr>,
    key: Option<Ident>,
    lists: Vec<Index>,
    lookups: Vec<Index>,
    core: Option<Path>,
}

/// A list or a look-up.
struct Index {
    name: LitStr,
    by: Ident,
    /// Every list has it.
    order_by: Option<Ident>,
    sharded: bool,
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let options = Options::of(input)?;
    let fields = named_fields(input)?;
    let missing = |what: &str| Error::new(input.span(), format!("`#[row({what})]` is missing"));
    let resource = options.resource.as_ref().ok_or_else(|| missing("resource = \"…\""))?;
    let key = options.key.as_ref().ok_or_else(|| missing("key = …"))?;
    let core = options.core.clone().unwrap_or_else(|| parse_quote!(::millrace_core));
    let row = &input.ident;
    let id = &field(&fields, key, "key")?.ty;
    let key_attribute = attribute(key);
    let others: Vec<_> = fields.iter().copied().filter(|field| field.ident.as_ref() != Some(key)).collect();
    let attributes = others.iter().filter_map(|field| field.ident.as_ref()).map(attribute);
    let lists =
        options.lists.iter().map(|list| list_schema(&core, &fields, list)).collect::<Result<Vec<_>>>()?;
    let lookups = options
        .lookups
        .iter()
        .map(|index| lookup_schema(&core, &fields, index))
        .collect::<Result<Vec<_>>>()?;
    let indexes = options.lists.iter().chain(&options.lookups);
    let times = indexes.filter_map(|index| index.order_by.as_ref());
    let (writes, reads) = (writes(&core, &others), reads(&core, &others));
    // The id is the key of the stored row, and neither set nor filtered by.
    let constants = constants(&core, &others);
    distinct_constants(&others, &options)?;
    let lists_of = indexes_of(&core, &fields, &options.lists, "lists", "List")?;
    let lookups_of = indexes_of(&core, &fields, &options.lookups, "lookups", "Lookup")?;
    Ok(quote! {
        impl #core::row::Row for #row {
            type Id = #id;

            const SCHEMA: &'static #core::row::RowSchema = &#core::row::RowSchema {
                resource: #resource,
                id: #key_attribute,
                attributes: &[#(#attributes),*],
                lists: &[#(#lists),*],
                lookups: &[#(#lookups),*],
            };

            fn id(&self) -> &#id {
                &self.#key
            }

            fn to_attributes(&self) -> Result<#core::row::Attributes, #core::row::UnusableAttribute> {
                let mut attributes = #core::row::Attributes::new();
                attributes.insert(#key_attribute.to_owned(), #core::row::write_id(&self.#key));
                #writes
                Ok(attributes)
            }

            fn from_attributes(
                attributes: &#core::row::Attributes,
            ) -> Result<Self, #core::row::UnusableAttribute> {
                Ok(Self { #key: #core::row::read_id(attributes, #key_attribute)?, #reads })
            }
        }

        impl #row {
            #constants
            #lists_of
            #lookups_of
        }

        const _: () = {
            // Rows are ordered by a time only.
            #(let _: fn(&#row) -> &#core::Timestamp = |row| &row.#times;)*
        };
    })
}

impl Options {
    fn of(input: &DeriveInput) -> Result<Self> {
        let mut options = Self::default();
        for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("row")) {
            attribute.parse_nested_meta(|meta| options.take(&meta))?;
        }
        let mut names: Vec<String> = Vec::new();
        for index in options.lists.iter().chain(&options.lookups) {
            let name = index.name.value();
            let is_well_formed = (3..=200).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-');
            if !is_well_formed {
                return Err(Error::new(
                    index.name.span(),
                    "an index's name has 3 to 200 of a-z and -, such as `by-status`",
                ));
            }
            if name == "by-target" {
                return Err(Error::new(index.name.span(), "`by-target` is the index of a row's parts"));
            }
            if names.contains(&name) {
                return Err(Error::new(index.name.span(), format!("two indexes are named `{name}`")));
            }
            names.push(name);
        }
        Ok(options)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        if meta.path.is_ident("resource") {
            self.resource = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("key") {
            self.key = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("crate") {
            self.core = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("list") {
            let list = Index::parse(meta)?;
            if list.order_by.is_none() {
                return Err(meta.error("a list needs `order_by = …`, a field of type `Timestamp`"));
            }
            self.lists.push(list);
        } else if meta.path.is_ident("lookup") {
            let lookup = Index::parse(meta)?;
            if lookup.sharded {
                return Err(meta.error("a look-up is not sharded"));
            }
            self.lookups.push(lookup);
        } else {
            return Err(meta.error("expected `resource`, `key`, `list`, `lookup` or `crate`"));
        }
        Ok(())
    }
}

impl Index {
    fn parse(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        let (mut name, mut by, mut order_by, mut sharded) = (None, None, None, false);
        meta.parse_nested_meta(|part| {
            if part.path.is_ident("name") {
                name = Some(part.value()?.parse()?);
            } else if part.path.is_ident("by") {
                by = Some(part.value()?.parse()?);
            } else if part.path.is_ident("order_by") {
                order_by = Some(part.value()?.parse()?);
            } else if part.path.is_ident("sharded") {
                sharded = true;
            } else {
                return Err(part.error("expected `name`, `by`, `order_by` or `sharded`"));
            }
            Ok(())
        })?;
        let missing = |what: &str| meta.error(format!("`{what} = …` is missing"));
        let name = name.ok_or_else(|| missing("name"))?;
        Ok(Self { name, by: by.ok_or_else(|| missing("by"))?, order_by, sharded })
    }
}

fn named_fields(input: &DeriveInput) -> Result<Vec<&Field>> {
    match &input.data {
        Data::Struct(data) if input.generics.params.is_empty() => match &data.fields {
            Fields::Named(fields) => Ok(fields.named.iter().collect()),
            Fields::Unnamed(_) | Fields::Unit => Err(Error::new(input.span(), "a row has named fields")),
        },
        Data::Struct(_) | Data::Enum(_) | Data::Union(_) => {
            Err(Error::new(input.span(), "a row is a struct without type parameters"))
        }
    }
}

/// The field called `name`, which `part` refers to.
fn field<'a>(fields: &[&'a Field], name: &Ident, part: &str) -> Result<&'a Field> {
    let found = fields.iter().find(|field| field.ident.as_ref() == Some(name));
    found.copied().ok_or_else(|| {
        let names = fields.iter().filter_map(|field| field.ident.as_ref()).map(|name| format!("`{name}`"));
        let names = names.collect::<Vec<_>>().join(", ");
        let both =
            format!("`{part} = {name}`, but the row has no field `{name}`: add it, or name one of {names}");
        Error::new(name.span(), both)
    })
}

/// `CreatedAt` for `created_at`.
fn attribute(field: &Ident) -> String {
    let name = field.unraw().to_string();
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

fn indexed(core: &Path, fields: &[&Field], name: &Ident, part: &str) -> Result<TokenStream> {
    let (ty, attribute): (&Type, _) = (&field(fields, name, part)?.ty, attribute(name));
    Ok(quote!(#core::row::IndexedAttribute::of::<#ty>(#attribute)))
}

fn list_schema(core: &Path, fields: &[&Field], list: &Index) -> Result<TokenStream> {
    let Index { name, by, order_by, sharded } = list;
    let by = indexed(core, fields, by, "by")?;
    let order_by =
        order_by.as_ref().map(|order_by| indexed(core, fields, order_by, "order_by")).transpose()?;
    Ok(quote!(#core::row::ListSchema { name: #name, by: #by, order_by: #order_by, sharded: #sharded }))
}

fn lookup_schema(core: &Path, fields: &[&Field], lookup: &Index) -> Result<TokenStream> {
    let (name, by) = (&lookup.name, indexed(core, fields, &lookup.by, "by")?);
    let order_by = match &lookup.order_by {
        Some(order_by) => {
            let order_by = indexed(core, fields, order_by, "order_by")?;
            quote!(::core::option::Option::Some(#order_by))
        }
        None => quote!(::core::option::Option::None),
    };
    Ok(quote!(#core::row::LookupSchema { name: #name, by: #by, order_by: #order_by }))
}

fn writes(core: &Path, fields: &[&Field]) -> TokenStream {
    let writes = fields.iter().filter_map(|field| field.ident.as_ref()).map(|name| {
        let attribute = attribute(name);
        quote!(attributes.insert(#attribute.to_owned(), #core::row::write(#attribute, &self.#name)?);)
    });
    writes.collect()
}

fn reads(core: &Path, fields: &[&Field]) -> TokenStream {
    let reads = fields.iter().filter_map(|field| field.ident.as_ref()).map(|name| {
        let attribute = attribute(name);
        quote!(#name: #core::row::read(attributes, #attribute)?,)
    });
    reads.collect()
}

/// The constants that a row has from its traits, and their meaning. A constant of the derived code would hide them.
const OF_TRAITS: [(&str, &str); 2] = [("NAME", "a projection's name"), ("SCHEMA", "the row's schema")];

/// `CREATED_AT` for the field `created_at`, and `NAME_FIELD` for `name`.
fn field_constant(field: &Ident) -> Ident {
    let name = field.unraw().to_string().to_uppercase();
    let is_taken = OF_TRAITS.iter().any(|(taken, _)| *taken == name);
    if is_taken { format_ident!("{name}_FIELD") } else { format_ident!("{name}") }
}

/// `BY_STATUS` for the index `by-status`.
fn index_constant(name: &LitStr) -> Ident {
    Ident::new(&name.value().replace('-', "_").to_uppercase(), name.span())
}

/// Refuses two constants of one name.
fn distinct_constants(fields: &[&Field], options: &Options) -> Result<()> {
    let of_fields = fields.iter().filter_map(|field| field.ident.as_ref());
    let of_fields = of_fields.map(|name| (field_constant(name), format!("the field `{name}`")));
    let of_indexes = options.lists.iter().chain(&options.lookups);
    let of_indexes =
        of_indexes.map(|Index { name, .. }| (index_constant(name), format!("the index `{}`", name.value())));
    let mut seen: Vec<_> =
        OF_TRAITS.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())).collect();
    for (constant, what) in of_fields.chain(of_indexes) {
        let name = constant.to_string();
        if let Some((_, first)) = seen.iter().find(|(taken, _)| *taken == name) {
            let both = format!("{first} and {what} would both be the constant `{name}`: rename one of them");
            return Err(Error::new(constant.span(), both));
        }
        seen.push((name, what));
    }
    Ok(())
}

fn constants(core: &Path, fields: &[&Field]) -> TokenStream {
    let constants =
        fields.iter().filter_map(|field| Some((field.ident.as_ref()?, &field.ty))).map(|(name, ty)| {
            let (constant, attribute) = (field_constant(name), attribute(name));
            let doc = format!("The attribute `{attribute}`.");
            quote! {
                #[doc = #doc]
                pub const #constant: #core::row::Field<Self, #ty> = #core::row::Field::new(#attribute);
            }
        });
    constants.collect()
}

/// A constant for each list, or each look-up.
fn indexes_of(
    core: &Path,
    fields: &[&Field],
    indexes: &[Index],
    part: &str,
    index_type: &str,
) -> Result<TokenStream> {
    let (part, index_type) = (format_ident!("{part}"), format_ident!("{index_type}"));
    let constants = indexes.iter().enumerate().map(|(n, Index { name, by, .. })| {
        let constant = index_constant(name);
        let (ty, doc) = (&field(fields, by, "by")?.ty, format!("The index `{}`.", name.value()));
        Ok(quote! {
            #[doc = #doc]
            pub const #constant: #core::row::#index_type<Self, #ty> =
                #core::row::Index::new(&<Self as #core::row::Row>::SCHEMA.#part[#n]);
        })
    });
    constants.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(input: DeriveInput) -> String {
        derive(&input).unwrap_err().to_string()
    }

    #[test]
    fn a_row_that_is_whole_is_taken() {
        let row: DeriveInput = parse_quote! {
            #[row(resource = "order", key = id, crate = core)]
            #[row(list(name = "by-status", by = status, order_by = at, sharded))]
            #[row(lookup(name = "by-number", by = r#type, order_by = at))]
            struct Order { id: Id, status: String, r#type: u8, at: Timestamp }
        };
        let code = derive(&row).unwrap().to_string();
        for part in ["\"Type\"", "pub const TYPE", "core :: row :: Row for Order", "pub const BY_STATUS"] {
            assert!(code.contains(part), "{part} in {code}");
        }
        assert!(!code.contains("pub const ID"), "no row stores its id as an attribute: {code}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let table: Vec<(DeriveInput, &str)> = vec![
            (
                parse_quote!(
                    #[row(key = id)]
                    struct Row {
                        id: Id,
                    }
                ),
                "`#[row(resource = \"…\")]` is missing",
            ),
            (
                parse_quote!(
                    #[row(resource = "x")]
                    struct Row {
                        id: Id,
                    }
                ),
                "`#[row(key = …)]` is missing",
            ),
            (
                parse_quote!(
                    #[row(resource = "x", key = no)]
                    struct Row {
                        id: Id,
                    }
                ),
                "`key = no`, but the row has no field `no`: add it, or name one of `id`",
            ),
            (
                parse_quote! {
                    #[row(resource = "x", key = id, list(name = "by-id", by = id, order_by = at))]
                    struct Row { id: Id, made_at: Timestamp }
                },
                "`order_by = at`, but the row has no field `at`: add it, or name one of `id`, `made_at`",
            ),
            (
                parse_quote! {
                    #[row(resource = "x", key = id, lookup(name = "by-x", by = x))]
                    struct Row { id: Id, x: X, by_x: X }
                },
                "the field `by_x` and the index `by-x` would both be the constant `BY_X`",
            ),
            (
                parse_quote! {
                    #[row(resource = "x", key = id, lookup(name = "name", by = id))]
                    struct Row { id: Id }
                },
                "a projection's name and the index `name`",
            ),
            (
                parse_quote! {
                    #[row(resource = "x", key = id)]
                    struct Row { id: Id, name: X, name_field: X }
                },
                "the field `name` and the field `name_field` would both be the constant `NAME_FIELD`",
            ),
            (
                parse_quote!(
                    #[row(resource = "x", key = id)]
                    struct Row(Id);
                ),
                "named fields",
            ),
            (
                parse_quote!(
                    #[row(resource = "x", key = id)]
                    struct Row<T> {
                        id: T,
                    }
                ),
                "without type parameters",
            ),
            (
                parse_quote!(
                    #[row(resource = "x", key = id)]
                    enum Row {
                        Id,
                    }
                ),
                "is a struct",
            ),
            (
                parse_quote!(
                    #[row(name = "x")]
                    struct Row {
                        id: Id,
                    }
                ),
                "expected `resource`",
            ),
            (
                parse_quote!(
                    #[row(list(name = "by-id", by = id))]
                    struct Row {
                        id: Id,
                    }
                ),
                "a list needs `order_by = …`",
            ),
            (
                parse_quote!(
                    #[row(list(by = id, order_by = at))]
                    struct Row {
                        id: Id,
                    }
                ),
                "`name = …` is missing",
            ),
            (
                parse_quote!(
                    #[row(list(name = "by-id", order_by = at))]
                    struct Row {
                        id: Id,
                    }
                ),
                "`by = …` is missing",
            ),
            (
                parse_quote!(
                    #[row(lookup(name = "by-id", by = id, sharded))]
                    struct Row {
                        id: Id,
                    }
                ),
                "not sharded",
            ),
            (
                parse_quote!(
                    #[row(lookup(name = "by-id", of = id))]
                    struct Row {
                        id: Id,
                    }
                ),
                "expected `name`",
            ),
            (
                parse_quote! {
                    #[row(resource = "x", key = id, lookup(name = "by-no", by = no))]
                    struct Row { id: Id }
                },
                "no field `no`",
            ),
            (
                parse_quote! {
                    #[row(lookup(name = "by-id", by = id), lookup(name = "by-id", by = id))]
                    struct Row { id: Id }
                },
                "two indexes are named `by-id`",
            ),
            (
                parse_quote!(
                    #[row(lookup(name = "byId", by = id))]
                    struct Row {
                        id: Id,
                    }
                ),
                "a-z and -",
            ),
            (
                parse_quote!(
                    #[row(lookup(name = "by", by = id))]
                    struct Row {
                        id: Id,
                    }
                ),
                "3 to 200",
            ),
            (
                parse_quote!(
                    #[row(lookup(name = "by-id-", by = id))]
                    struct Row {
                        id: Id,
                    }
                ),
                "such as",
            ),
            (
                parse_quote!(
                    #[row(lookup(name = "by-target", by = id))]
                    struct Row {
                        id: Id,
                    }
                ),
                "parts",
            ),
        ];
        for (input, expected) in table {
            let refusal = refusal(input);
            assert!(refusal.contains(expected), "{refusal} and not {expected}");
        }
    }
}
