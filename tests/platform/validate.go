// Reads a CustomResourceDefinition and a list of cases and answers as an API server would: {"crd": [...], "cases": [[...], ...]}.
package main

import (
	"context"
	"os"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func texts(list field.ErrorList) []string {
	found := []string{}
	for _, one := range list {
		found = append(found, one.Error())
	}
	return found
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	check(err)
	var external v1.CustomResourceDefinition
	check(yaml.UnmarshalStrict(text, &external))
	v1.SetDefaults_CustomResourceDefinition(&external)
	v1.SetDefaults_CustomResourceDefinitionSpec(&external.Spec)
	var crd apiext.CustomResourceDefinition
	check(v1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&external, &crd, nil))
	crd.Status.StoredVersions = []string{crd.Spec.Versions[0].Name}
	ctx := context.Background()
	answer := struct {
		CRD   []string   `json:"crd"`
		Cases [][]string `json:"cases"`
	}{CRD: texts(crdvalidation.ValidateCustomResourceDefinition(ctx, &crd)), Cases: [][]string{}}

	props := crd.Spec.Validation // conversion moves the schema of a single version here
	structural, err := schema.NewStructural(props.OpenAPIV3Schema)
	check(err)
	validator, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	check(err)
	rules := cel.NewValidator(structural, true, celconfig.PerCallLimit)

	var cases []any
	input, err := os.ReadFile(os.Args[2])
	check(err)
	check(json.Unmarshal(input, &cases)) // Kubernetes' own: whole numbers stay whole
	for _, one := range cases {
		object := one.(map[string]any)["object"].(map[string]any)
		var list field.ErrorList
		unknown := pruning.PruneWithOptions(object, structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
		for _, path := range unknown {
			list = append(list, field.Invalid(field.NewPath(path), nil, "unknown field"))
		}
		defaulting.Default(object, structural)
		list = append(list, validation.ValidateCustomResource(nil, object, validator)...)
		list = append(list, listtype.ValidateListSetsAndMaps(nil, structural, object)...)
		if len(list) == 0 {
			var old any
			if before, there := one.(map[string]any)["old"].(map[string]any); there {
				defaulting.Default(before, structural)
				old = before
			}
			found, _ := rules.Validate(ctx, nil, structural, object, old, celconfig.RuntimeCELCostBudget)
			list = append(list, found...)
		}
		answer.Cases = append(answer.Cases, texts(list))
	}
	out, err := json.Marshal(answer)
	check(err)
	os.Stdout.Write(out)
}
