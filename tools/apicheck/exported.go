package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/exp/apidiff"
	"golang.org/x/tools/go/packages"
)

// exported is a package that others import, as it is now.
type exported struct {
	types  *types.Package
	module string // its folder
	root   string // the import path of the module
}

// loadModules returns the packages that other modules can import.
func loadModules(folders []string) (all []*exported, err error) {
	for _, folder := range folders {
		loaded, err := load(folder, "./...")
		if err != nil {
			return nil, err
		}
		for _, p := range loaded {
			if p.Name == "main" || isInternal(p.PkgPath) || !exportsAnything(p.Types) {
				continue
			}
			all = append(all, &exported{types: p.Types, module: folder, root: p.Module.Path})
		}
	}
	return all, nil
}

func exportsAnything(p *types.Package) bool {
	return slices.ContainsFunc(p.Scope().Names(), token.IsExported)
}

func isInternal(path string) bool {
	return strings.Contains("/"+path+"/", "/internal/")
}

func load(folder string, patterns ...string) ([]*packages.Package, error) {
	mode := packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedModule
	loaded, err := packages.Load(&packages.Config{Mode: mode, Dir: folder}, patterns...)
	if err != nil {
		return nil, err
	}
	for _, p := range loaded {
		if len(p.Errors) > 0 {
			return nil, fmt.Errorf("%s: %w", p.PkgPath, p.Errors[0])
		}
	}
	return loaded, nil
}

// name is short and unique in this repository: walletauth, redisstore,
// redisstore/sub.
func (p *exported) name() string {
	return filepath.Base(p.root) + strings.TrimPrefix(p.types.Path(), p.root)
}

func (p *exported) file() string {
	return strings.ReplaceAll(p.name(), "/", "-") + ".txt"
}

// incompatible compares the package with its baseline.
func (p *exported) incompatible(folder string) (changes []change, err error) {
	path := filepath.Join(folder, p.file())
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s has no baseline, run make api: %w", p.types.Path(), err)
	}
	old, err := p.typecheck(path, source)
	if err != nil {
		return nil, err
	}
	for _, c := range apidiff.Changes(old, p.types).Changes {
		if !c.Compatible {
			changes = append(changes, p.change(c.Message))
		}
	}
	return changes, nil
}

// change takes the name out of a message of apidiff, which is one of
//
//	Name: changed from ...
//	Type.Field: removed
//	(*Type).Method, method set of *Type: removed
//	Type[T].Method: changed from ...
func (p *exported) change(message string) change {
	name, what, _ := strings.Cut(message, ": ")
	name, _, _ = strings.Cut(name, ",")
	name = inBrackets.ReplaceAllString(strings.NewReplacer("(*", "", "(", "", ")", "").Replace(name), "")
	return change{name: p.name() + "." + name, what: what}
}

var inBrackets = regexp.MustCompile(`\[[^]]*\]`)

// typecheck reads a baseline. What it imports is what the module requires now.
func (p *exported) typecheck(path string, source []byte) (*types.Package, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, source, 0)
	if err != nil {
		return nil, err
	}
	imports, err := p.importsOf(file)
	if err != nil {
		return nil, err
	}
	config := types.Config{Importer: imports, IgnoreFuncBodies: true}
	return config.Check(p.types.Path(), fset, []*ast.File{file}, nil)
}

// importsOf loads what a baseline imports.
func (p *exported) importsOf(file *ast.File) (importer, error) {
	var paths []string
	for _, spec := range file.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	known := importer{}
	if len(paths) == 0 {
		return known, nil
	}
	loaded, err := load(p.module, paths...)
	if err != nil {
		return nil, fmt.Errorf("the API of %s at the last release: %w", p.types.Path(), err)
	}
	for _, l := range loaded {
		known[l.PkgPath] = l.Types
	}
	return known, nil
}

type importer map[string]*types.Package

func (i importer) Import(path string) (*types.Package, error) {
	if p := i[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s is not imported", path)
}

// declarations are what the package exports, as Go source that declares the
// same: functions have no bodies, and fields that are not exported are one
// field that is as comparable as they are.
func (p *exported) declarations() []byte {
	w := &writer{pkg: p.types, imports: map[string]string{}}
	scope := p.types.Scope()
	for _, name := range scope.Names() {
		if object := scope.Lookup(name); object.Exported() {
			w.object(object)
		}
	}
	source, err := format.Source(w.file())
	if err != nil {
		panic(fmt.Sprintf("%v in\n%s", err, w.file())) // a mistake of the writer's
	}
	return source
}

// writer writes declarations, and remembers what they need imported.
type writer struct {
	pkg     *types.Package
	imports map[string]string // import paths, by name
	body    bytes.Buffer
}

func (w *writer) file() []byte {
	var head bytes.Buffer
	fmt.Fprintf(&head, "// What programs can rely on since the last release; make api writes it.\n\npackage %s\n\n", w.pkg.Name())
	for _, name := range slices.Sorted(maps.Keys(w.imports)) {
		if path := w.imports[name]; name == filepath.Base(path) {
			fmt.Fprintf(&head, "import %q\n", path)
		} else {
			fmt.Fprintf(&head, "import %s %q\n", name, path)
		}
	}
	return append(head.Bytes(), w.body.Bytes()...)
}

func (w *writer) printf(format string, args ...any) { fmt.Fprintf(&w.body, format, args...) }

func (w *writer) object(object types.Object) {
	switch o := object.(type) {
	case *types.Const:
		w.printf("\nconst %s %s = %s\n", o.Name(), w.constType(o.Type()), o.Val().ExactString())
	case *types.Var:
		w.printf("\nvar %s %s\n", o.Name(), w.typ(o.Type()))
	case *types.Func:
		w.printf("\nfunc %s%s\n", o.Name(), w.signature(o))
	case *types.TypeName:
		w.typeName(o)
	}
}

// constType is empty for a constant without a type.
func (w *writer) constType(t types.Type) string {
	if basic, ok := t.(*types.Basic); ok && basic.Info()&types.IsUntyped != 0 {
		return ""
	}
	return w.typ(t)
}

func (w *writer) signature(f *types.Func) string {
	return strings.TrimPrefix(w.typ(f.Type()), "func")
}

func (w *writer) typ(t types.Type) string { return types.TypeString(t, w.qualifier) }

func (w *writer) qualifier(other *types.Package) string {
	if other == w.pkg {
		return ""
	}
	name := other.Name()
	for w.imports[name] != "" && w.imports[name] != other.Path() {
		name += "_"
	}
	w.imports[name] = other.Path()
	return name
}

func (w *writer) typeName(o *types.TypeName) {
	if o.IsAlias() {
		w.printf("\ntype %s = %s\n", o.Name(), w.typ(types.Unalias(o.Type())))
		return
	}
	named := o.Type().(*types.Named)
	w.printf("\ntype %s%s %s\n", o.Name(), w.typeParams(named), w.underlying(named))
	if !types.IsInterface(named) {
		w.methods(named)
	}
}

func (w *writer) typeParams(named *types.Named) string {
	var list []string
	for p := range named.TypeParams().TypeParams() {
		list = append(list, p.Obj().Name()+" "+w.typ(p.Constraint()))
	}
	if list == nil {
		return ""
	}
	return "[" + strings.Join(list, ", ") + "]"
}

func (w *writer) underlying(named *types.Named) string {
	switch t := named.Underlying().(type) {
	case *types.Struct:
		return w.structure(t)
	case *types.Interface:
		return w.methodList(t)
	}
	return w.typ(named.Underlying())
}

// methodList is an interface with a line for each method.
func (w *writer) methodList(t *types.Interface) string {
	var b strings.Builder
	b.WriteString("interface {\n")
	for e := range t.EmbeddedTypes() {
		fmt.Fprintf(&b, "%s\n", w.typ(e))
	}
	for m := range t.ExplicitMethods() {
		fmt.Fprintf(&b, "%s%s\n", m.Name(), w.signature(m))
	}
	return b.String() + "}"
}

func (w *writer) structure(structure *types.Struct) string {
	var b strings.Builder
	b.WriteString("struct {\n")
	hidden := ""
	for i := range structure.NumFields() {
		field := structure.Field(i)
		switch {
		case !field.Exported() && types.Comparable(field.Type()):
			hidden = max(hidden, "_ bool // and other fields that are not exported\n")
		case !field.Exported():
			hidden = "_ func() // and other fields that are not exported; not comparable\n"
		case field.Embedded():
			fmt.Fprintf(&b, "%s\n", w.typ(field.Type()))
		default:
			fmt.Fprintf(&b, "%s %s\n", field.Name(), w.typ(field.Type()))
		}
	}
	return b.String() + hidden + "}"
}

// methods writes the exported methods, those too that the type has from a field
// that is embedded and not exported: nobody sees where they come from.
func (w *writer) methods(named *types.Named) {
	set := types.NewMethodSet(types.NewPointer(named))
	structure, _ := named.Underlying().(*types.Struct)
	for selection := range set.Methods() {
		method := selection.Obj().(*types.Func)
		if !method.Exported() || len(selection.Index()) > 1 && structure.Field(selection.Index()[0]).Exported() {
			continue
		}
		w.printf("\nfunc (%s) %s%s\n", w.receiver(named, method), method.Name(), w.signature(method))
	}
}

// receiver is a pointer if the type itself does not have the method.
func (w *writer) receiver(named *types.Named, method *types.Func) string {
	star := ""
	if types.NewMethodSet(named).Lookup(method.Pkg(), method.Name()) == nil {
		star = "*"
	}
	var params []string // by the names that the method gives them
	for p := range method.Signature().RecvTypeParams().TypeParams() {
		params = append(params, p.Obj().Name())
	}
	if params == nil {
		return star + named.Obj().Name()
	}
	return star + named.Obj().Name() + "[" + strings.Join(params, ", ") + "]"
}
