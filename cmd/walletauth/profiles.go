package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// listed is a profile in the form of profiles --json.
type listed struct {
	profile
	LoggedIn bool `json:"logged_in"`
	Current  bool `json:"current"`
}

func (a *app) profilesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "profiles [--json]",
		Short: "List the profiles, or remove one",
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := a.profiles(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(all)
			}
			return a.printProfiles(all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(&cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a profile that is logged out",
		Args:  exactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.removeProfile(cmd.Context(), args[0]) },
	})
	return cmd
}

func (a *app) profiles(ctx context.Context) ([]listed, error) {
	names, err := profileNamesKnown()
	if err != nil {
		return nil, err
	}
	all := []listed{} // not null in JSON
	for _, name := range names {
		p, err := loadProfile(name)
		if err != nil {
			return nil, err
		}
		all = append(all, listed{*p, isLoggedIn(ctx, p), name == a.profileName})
	}
	return all, nil
}

func (a *app) printProfiles(all []listed) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(a.out, "There are no profiles yet: walletauth login makes one.")
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "PROFILE\tAPI\tPROJECT\tSTORAGE\tSTATE")
	for _, p := range all {
		state, mark := notLoggedIn, ""
		if p.LoggedIn {
			state = loggedIn
		}
		if p.Current {
			mark = " *"
		}
		_, _ = fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\n", p.Name, mark, p.API, p.Project, p.Storage, state)
	}
	return w.Flush()
}

func (a *app) removeProfile(ctx context.Context, name string) error {
	p, err := loadProfile(name)
	if os.IsNotExist(err) {
		return failed(exitFailed, "there is no profile %s", name)
	}
	if err != nil {
		return err
	}
	if isLoggedIn(ctx, p) {
		return failed(exitFailed, "the profile %s is logged in: run walletauth logout --profile %s first", name, name)
	}
	file, err := profileFile(name)
	if err != nil {
		return err
	}
	return os.Remove(file)
}
